"""What scores mean: class probabilities, expected losses and probabilities of error.

A network's softmax is rarely a probability, and a loss that was predicted by ranking has an order
but no scale. `fitting` gives both a meaning, and needs scikit-learn; what it learned is applied
without it.
"""

from misgiving.calibrators.apply import (
    CALIBRATED,
    COMBINATION,
    Combination,
    Confidences,
    Estimate,
    Isotonic,
    Scaling,
)

__all__ = [
    "CALIBRATED",
    "COMBINATION",
    "Combination",
    "Confidences",
    "Estimate",
    "Isotonic",
    "Scaling",
]
