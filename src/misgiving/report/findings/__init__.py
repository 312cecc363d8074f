"""Findings: what the numbers of a reproduction show, as records that the page puts in place."""
