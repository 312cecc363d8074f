"""When is a review worth its cost?

A missed malignant tumour costs more than a needless alarm, and a review costs something, too. With
`costs` and `review_cost` the policy gives the answer of the least expected cost, and asks a person
where that would cost less.
"""

# %% scikit-learn's table of breast tumours; the classifier sees two of its thirty measurements.
from matplotlib import pyplot
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from misgiving import Deferral

tumours = load_breast_cancer()
measured, names = tumours.data[:, :2], tumours.target_names[tumours.target]
classifier = make_pipeline(StandardScaler(), LogisticRegression())
probabilities = cross_val_predict(classifier, measured, names, cv=10, method="predict_proba")
classes = ["benign", "malignant"]  # in the order of the columns

# %% A missed malignant tumour costs 20 times as much as a false alarm; a review costs less or more.
# An answer that is more likely wrong than right may be the cheapest one.
prices, found = [0.1, 0.2, 0.4, 0.8, 1.6], []
for price in prices:
    deferral = Deferral(
        rule="costs", costs={"malignant": 20.0}, review_cost=price, max_error_probability=1.0
    )
    found.append(deferral.fit(probabilities, names, classes=classes).certificate_)
costs = [certificate.mean_cost for certificate in found]

# %%
axes = pyplot.subplots()[1]
axes.plot(prices, [cost.mean for cost in costs], "o-", label="the policy")
low, high = ([getattr(cost, end) for cost in costs] for end in ("lower", "upper"))
axes.fill_between(prices, low, high, alpha=0.2, label="95 % interval")
axes.plot(prices, [cost.accept_all for cost in costs], "--", label="no review")
axes.plot(prices, prices, ":", label="every case reviewed")
axes.set(xlabel="cost of a review", ylabel="mean cost of a case", ylim=(0, 1))
axes.legend()
share = [certificate.accepted / certificate.cases for certificate in found]
print(
    f"Where a review costs {prices[0]}, a person sees {100 * (1 - share[0]):.0f} % of the cases, "
    f"where it costs {prices[-1]}, {100 * (1 - share[-1]):.0f} %; the mean cost is "
    f"{costs[0].mean:.2f} and {costs[-1].mean:.2f}, of the classifier alone "
    f"{costs[0].accept_all:.2f}."
)
pyplot.show()
