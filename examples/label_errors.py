"""Find wrong labels that were planted among digits."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from misgiving import Predictions
from misgiving.evaluation.suspect_labels import suspect_labels

pixels, true = load_digits(return_X_y=True)
random = np.random.default_rng(0)
planted = random.choice(len(true), 90, replace=False)
labels = true.copy()
labels[planted] = (labels[planted] + random.integers(1, 10, len(planted))) % 10

# Each image is judged by a classifier that was not trained on it.
classifier = LogisticRegression(max_iter=2000, C=0.01)
probabilities = cross_val_predict(classifier, pixels, labels, method="predict_proba")
table = Predictions.of({"probabilities": probabilities, "features": pixels, "label": labels})
review = suspect_labels(table)
print(f"{len(review.suspects)} of {review.judged} labels are suspect")

names = {table.ids[row] for row in planted}
suspects = [suspect.id in names for suspect in review.suspects[: len(planted)]]
print(f"precision {np.mean(suspects):.3f} among the first {len(planted)}")
print(f"most suspect: {review.suspects[0].why}")
