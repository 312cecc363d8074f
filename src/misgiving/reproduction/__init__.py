"""The paper: its experiments over trials (Sections 4.1 to 4.3), its OOD sets and its report."""
