"""Training predictions that are drawn: Gaussian classes, and the head that separates them."""

import numpy as np

from misgiving.predictions.record import Predictions
from misgiving.scores.outputs import Head

WIDTH, CLASSES = 40, 4


def scene(samples, *, classes=CLASSES, width=WIDTH, seed=0):
    """Gaussian classes in features far from their origin, and the head that separates them."""
    means = np.random.default_rng(7).normal(size=(classes, width)) * 2
    random = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    scales = np.linspace(1.5, 0.1, width)  # not round: a Euclidean distance is no Mahalanobis one
    features = 3 + means[labels] + random.normal(size=(samples, width)) * scales
    weight = means / 4
    head = Head(weight, -weight @ (3 + means.mean(axis=0)) - (means**2).sum(axis=1) / 8)
    return predictions(features.astype(np.float32), labels, head)


def predictions(features, labels, head):
    logits = (features @ head.weight.T + head.bias).astype(np.float32)
    columns = {"logits": logits, "features": features, "taps": features, "label": labels}
    return Predictions.of({**columns, "head_weight": head.weight, "head_bias": head.bias})
