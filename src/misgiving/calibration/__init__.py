"""Calibrators: maps from scores to class probabilities, error probabilities and expected losses.

A network's softmax is rarely a probability, and a loss that was predicted by ranking has an order
but no scale. `fit` learns the maps on the tuning set with scikit-learn; `apply` needs only numpy.
"""
