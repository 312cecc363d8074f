"""Predictions and decisions with made-up numbers."""

import numpy as np

from misgiving import Predictions

HOSTILE = "<script>alert(1)</script> & $x$"
PETS = ("cat", "dog", HOSTILE)


def predictions(count=120, seed=0, classes=PETS, right=0.7, **columns):
    random = np.random.default_rng(seed)
    labels = random.integers(len(classes), size=count)
    is_right = random.random(count) < right
    predicted = np.where(is_right, labels, random.integers(len(classes), size=count))
    logits = random.normal(size=(count, len(classes)))
    logits += np.eye(len(classes))[predicted] * random.uniform(2, 6, size=(count, 1))
    ids = [f"image {seed} {row} {HOSTILE}" for row in range(count)]
    return Predictions.of(
        {"logits": logits, "label": labels, "classes": classes, "id": ids} | columns
    )


FILE_NAME = "<script>alert(1)</script>.png".replace("/", "-")


def decision_row(decision, error, *, p_value=0.5):
    return {
        "predicted_class": "a&b",
        "answer": "a&b",
        "probability": 0.6,
        "decision": decision,
        "reason": "less < more",
        "error_probability": error,
        "acceptance_score": 1 - error,
        "ood_p_value": p_value,
    }
