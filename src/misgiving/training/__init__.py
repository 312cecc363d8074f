"""Train a classifier jointly with its loss estimator; start at `loop`."""
