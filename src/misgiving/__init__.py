"""Image classifiers trained jointly with an estimator of their own loss."""

__version__ = "0.1.0"
