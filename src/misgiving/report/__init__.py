"""Reports of a reproduction and of an evaluation, and contact sheets, as single HTML files."""
