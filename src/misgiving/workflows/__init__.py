"""The product: one file for each command."""
