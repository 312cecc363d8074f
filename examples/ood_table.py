"""Compare detectors of out-of-distribution images: digits 0 to 6 are known, 7 to 9 are not."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from misgiving import Predictions, ood_metrics
from misgiving.scores.detectors import FittedDetectors, scores_of_outputs
from misgiving.scores.outputs import Outputs

pixels, labels = load_digits(return_X_y=True)
known = np.flatnonzero(labels < 7)
training, test = known[:800], known[800:]
sets = {
    "digits 7 to 9": pixels[labels >= 7],
    "noise": np.random.default_rng(0).uniform(0, 16, (400, 64)),
}

network = MLPClassifier([64], max_iter=300, random_state=0).fit(pixels[training], labels[training])


def outputs(images):
    """Logits, and the features that the last layer reads."""
    (first, last), (bias, last_bias) = network.coefs_, network.intercepts_
    features = np.maximum(images @ first + bias, 0)
    return features @ last + last_bias, features


logits, features = outputs(pixels[training])
names = tuple(map(str, training))
detectors = FittedDetectors.fit(
    Predictions(
        logits=logits.astype(np.float32),
        features=features.astype(np.float32),
        predicted_losses=None,
        labels=labels[training],
        ids=names,
        groups=names,
        classes=tuple("0123456"),
    ),
    ["knn", "mahalanobis", "mahalanobis++"],
)


def scores(images):
    """Confidences by detector; higher means more in-distribution."""
    logits, features = outputs(images)
    return scores_of_outputs(Outputs(logits=logits, features=features), detectors)


inliers = scores(pixels[test])
print(f"{'AUROC':24}", *(f"{name:>16}" for name in sets))
for name, confidence in inliers.items():
    found = [ood_metrics(confidence, scores(images)[name])["auroc"] for images in sets.values()]
    print(f"{name:24}", *(f"{value:16.3f}" for value in found))
