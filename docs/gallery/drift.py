"""Has the data changed?

A certificate holds for inputs like the calibration cases. `decide` compares the scores of each
batch with theirs and warns where they differ; no label is needed.
"""

# %% Digits, of which later batches are more and more noisy, as from a scanner that ages.
import warnings

import numpy as np
from matplotlib import pyplot
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from misgiving import Deferral

digits, labels = load_digits(return_X_y=True)
train, rest, y_train, y_rest = train_test_split(digits / 16, labels, train_size=100, random_state=0)
cases, new, y_cases, y_new = train_test_split(rest, y_rest, train_size=800, random_state=0)
classifier = LogisticRegression().fit(train, y_train)
deferral = Deferral(max_error=0.05).fit(classifier, cases, y_cases)

# %% Ten batches of 300 digits.
rng, batches = np.random.default_rng(0), []
for noise in np.linspace(0.0, 0.45, 10):
    rows = rng.choice(len(new), 300, replace=False)
    batch = new[rows] + rng.normal(scale=noise, size=(300, 64))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decisions = deferral.decide(classifier.predict_proba(batch))
    accepted, wrong = decisions.decisions == "accept", decisions.wrong(y_new[rows])
    batches.append((100 * accepted.mean(), 100 * wrong[accepted].mean(), bool(caught)))
    if caught and not any(warned for *_, warned in batches[:-1]):
        print(caught[0].message)

# %%
shares, errors, warned = map(np.array, zip(*batches, strict=True))
axes, numbers = pyplot.subplots()[1], np.arange(1, 11)
axes.plot(numbers, shares, label="accepted (%)")
axes.plot(numbers, errors, label="wrong of the accepted (%)")
axes.plot(numbers[warned], shares[warned], "o", color="black", label="`decide` warns")
axes.axhline(5, color="black", linestyle="--", linewidth=1, label="target")
axes.set(xlabel="batch", ylim=(0, 100))
axes.legend()
first, above = numbers[warned][0], numbers[errors > 5]
print(
    f"The first warning comes with batch {first}; the first batch above the target is {above[0]}. "
    "That nothing warns proves nothing: slow changes are seen late, and changes that leave the "
    "scores as they are, never."
)
pyplot.show()
