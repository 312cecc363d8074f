"""Tables, documents and intervals of all finished units, for the report."""
