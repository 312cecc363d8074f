"""The predictor, the loss estimator, and both as one module."""
