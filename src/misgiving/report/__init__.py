"""Reports of an evaluation, and contact sheets, as single HTML files."""
