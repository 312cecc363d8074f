"""Predictions to try the library on: a logistic regression's for handwritten digits."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from misgiving.predictions.record import Predictions

SETS = {"train": 97, "tune": 300, "calibrate": 800, "test": 600}  # images


def sample_predictions() -> Predictions:
    """Predictions for the sets tune, calibrate and test, by a model of the other digits."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    sets = np.repeat(list(SETS), list(SETS.values()))
    learned, others = order[sets == "train"], order[sets != "train"]
    model = LogisticRegression(max_iter=1000).fit(pixels[learned], labels[learned])
    return Predictions.of(
        {
            "set": sets[sets != "train"].tolist(),
            "label": labels[others],
            "logits": model.decision_function(pixels[others]),
            "classes": [str(number) for number in model.classes_],
        }
    )
