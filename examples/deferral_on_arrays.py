"""Defer the answers of a scikit-learn classifier that may be wrong, with a certified error."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from misgiving import Deferral

pixels, labels = load_digits(return_X_y=True)
order = np.random.default_rng(0).permutation(len(labels))
training, tuning, calibration, new = np.split(order, [300, 500, 1200])

classifier = LogisticRegression(max_iter=1000).fit(pixels[training], labels[training])
logits = classifier.decision_function(pixels)

deferral = Deferral(max_error=0.05)
deferral.fit((logits[tuning], labels[tuning]), (logits[calibration], labels[calibration]))
certificate = deferral.certificate_
print(
    certificate.accepted, "of", certificate.cases, "accepted,", certificate.wrong, "of them wrong"
)

decisions = deferral.decide(logits[new])
accepted = decisions.decisions == "accept"
wrong = decisions.predicted != labels[new]  # not the classifier's answers: see decisions.rule
print(f"of all answers {wrong.mean():.3f} are wrong")
print(f"accepted {accepted.mean():.3f}, of which {wrong[accepted].mean():.3f} are wrong")
(first, *_) = (one for one in decisions if one.decision == "defer")
print(f"the first that is deferred: {first.reason}")
