"""How many answers can I accept with at most 5 % errors?

A classifier answers every input, and some of its answers are wrong. Labelled cases that it has not
seen tell which of its answers may be accepted so that, with 95 % confidence, at most 5 % of the
accepted are wrong.
"""

# %% A classifier of handwritten digits, fitted on few of them, so that it errs often enough.
from matplotlib import pyplot
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from misgiving import Deferral

digits, labels = load_digits(return_X_y=True)
train, rest, y_train, y_rest = train_test_split(digits / 16, labels, train_size=60, random_state=0)
cases, new, y_cases, y_new = train_test_split(rest, y_rest, train_size=1000, random_state=0)
classifier = LogisticRegression().fit(train, y_train)

# %% A fifth of the cases tunes the probabilities, the others certify the threshold.
deferral = Deferral(max_error=0.05).fit(classifier, cases, y_cases)
print(deferral.certificate_)

# %% Other digits check it.
decisions = deferral.decide(classifier.predict_proba(new))
accepted, wrong = decisions.decisions == "accept", decisions.wrong(y_new)
deferral.plot()
print(
    f"Of all answers {100 * wrong.mean():.1f} % are wrong. The policy (dot) has the loosest "
    f"threshold that the cases certify: of {len(new)} new digits it accepts "
    f"{100 * accepted.mean():.0f} %, and {100 * wrong[accepted].mean():.1f} % of these are wrong."
)
pyplot.show()
