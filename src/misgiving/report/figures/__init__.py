"""The figures of the report: rows in, a matplotlib figure out; no model and no window needed."""
