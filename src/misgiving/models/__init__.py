"""The joint model: a backbone and its loss estimator as one module."""
