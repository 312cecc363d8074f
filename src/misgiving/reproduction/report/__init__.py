"""Report of a reproduction of the paper: its claims, its tables and its figures."""
