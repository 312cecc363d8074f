"""How likely is it that the answer for this row is wrong?

Gradient boosting on a table is often surer than it should be. The policy that accepts or defers
also states how likely it is that each answer is right; new rows show whether that is true.
"""

# %% A made table with missing values and three classes.
import numpy as np
from matplotlib import pyplot
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split

from misgiving import Deferral

rows, labels = make_classification(
    6000, n_features=12, n_informative=6, n_classes=3, random_state=4
)
rows[np.random.default_rng(0).random(rows.shape) < 0.05] = np.nan
train, rest, y_train, y_rest = train_test_split(rows, labels, train_size=2000, random_state=0)
cases, new, y_cases, y_new = train_test_split(rest, y_rest, train_size=2000, random_state=0)
classifier = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(train, y_train)

# %%
deferral = Deferral(max_error=0.1).fit(classifier, cases, y_cases)
decisions = deferral.decide(classifier.predict_proba(new))
print(decisions.to_frame()[["predicted_class", "probability", "decision"]].head(4).round(3))
print(decisions[0].reason)

# %% Right answers by the stated probability; larger dots are more rows.
decisions.plot(labels=y_new)
wrong, stated = decisions.wrong(y_new), decisions.error_probability
raw = 1 - classifier.predict_proba(new).max(axis=1)
print(
    f"{100 * wrong.mean():.1f} % of the answers are wrong; the policy says "
    f"{100 * stated.mean():.1f} %, the classifier itself {100 * raw.mean():.1f} %. Each dot is a "
    "tenth of the answers: where it lies near the diagonal, the stated probability is true."
)
pyplot.show()
