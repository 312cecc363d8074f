"""Run a model over a set once, and measure its predictions."""
