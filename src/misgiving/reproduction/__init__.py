"""The paper's protocol: sections 4.1, 4.2 and 4.3 over trials."""
