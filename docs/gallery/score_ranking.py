"""Does my confidence put the wrong answers last?

Which answers are accepted depends on the score that orders them. The error among the accepted, for
each share that is accepted, compares scores; the area under this curve (AURC) sums it up.
"""

# %% A forest of trees knows more than its highest probability.
import numpy as np
from matplotlib import pyplot
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from misgiving import Deferral
from misgiving.metrics.selective import RiskCoverage

digits, labels = load_digits(return_X_y=True)
train, rest, y_train, y_rest = train_test_split(digits, labels, train_size=100, random_state=0)
cases, new, y_cases, y_new = train_test_split(rest, y_rest, train_size=500, random_state=0)
forest = RandomForestClassifier(50, random_state=0).fit(train, y_train)

# %% Higher means more likely right.
probabilities = forest.predict_proba(new)
ordered = np.sort(probabilities, axis=1)
decisions = (
    Deferral(max_error=0.05, rule="logits").fit(forest, cases, y_cases).decide(probabilities)
)
scores = {
    "acceptance score of the policy": decisions.acceptance_score,
    "highest probability": ordered[:, -1],
    "lead over the second": ordered[:, -1] - ordered[:, -2],
    "chance": np.random.default_rng(0).random(len(new)),
}

# %%
errors = (probabilities.argmax(axis=1) != y_new).astype(float)
axes, coverages, areas = pyplot.subplots()[1], np.linspace(0.05, 1.0, 96), []
for name, score in scores.items():
    curve = RiskCoverage(score, errors)
    risks = [100 * curve.risk_at_coverage(float(coverage)) for coverage in coverages]
    areas.append(curve.aurc())
    axes.plot(100 * coverages, risks, label=f"{name}: AURC {areas[-1]:.3f}")
axes.set(xlabel="accepted (%)", ylabel="wrong of the accepted (%)", ylim=(0, None))
axes.legend()
best = [*scores][int(np.argmin(areas))]
print(
    f"{100 * errors.mean():.1f} % of all answers are wrong. The lowest curve is that of the "
    f"{best}; a score that knows nothing stays near the error of all."
)
pyplot.show()
