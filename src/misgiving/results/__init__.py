"""Every file that a run, an evaluation or a reproduction writes: one reader and one writer each."""
