"""The tables of the page as plain records, which the templates turn into HTML."""
