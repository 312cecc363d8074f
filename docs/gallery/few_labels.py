"""What if 300 labels are all that I can pay for?

Labels of cases that are deferred anyway are wasted. `draw` takes the cases to label from those that
could be accepted.
"""

# %% Made outputs of a classifier that is wrong in about a quarter of its answers.
import numpy as np
from matplotlib import pyplot

from misgiving import Deferral, Predictions, draw

CASES, POOL, TARGET = 300, 2500, 0.05


def outputs(rng):
    """A pool of which the labels are known here alone; the first hundred cases tune."""
    labels = rng.integers(0, 3, POOL)
    logits = 2 * rng.normal(size=(POOL, 3)) + rng.gamma(2.0, 1.7, (POOL, 1)) * np.eye(3)[labels]
    names = [str(row) for row in range(POOL)]
    images = Predictions.of({"logits": logits, "label": labels, "id": names})
    return images.select(np.arange(100)), images.select(np.arange(100, POOL))


# %% Eight times: 300 labels for cases of any kind, and for cases that `draw` takes.
shares = {"any 300 cases": [], "300 cases of `draw`": []}
for seed in range(8):
    tuning, pool = outputs(np.random.default_rng(seed))
    anyone = Deferral(max_error=TARGET).fit(tuning, pool.select(np.arange(CASES)))
    deferral = Deferral(max_error=TARGET)
    drawn = draw(pool, CASES, deferral=deferral, tuning=tuning)
    answers = {name: str(pool.labels[pool.ids.index(name)]) for name in drawn.ids}
    deferral.fit(tuning, drawn.with_labels(answers))
    for found, policy in zip(shares.values(), (anyone, deferral), strict=True):
        found.append((policy.decide(pool).decisions == "accept").mean())

# %% The share of the pool that is accepted then.
axes = pyplot.subplots()[1]
axes.plot([0, 1], 100 * np.array([*shares.values()]), "o-", color="tab:blue", alpha=0.6)
axes.set_xticks([0, 1], [*shares])
axes.set(ylabel="accepted of the pool (%)", xlim=(-0.3, 1.3), ylim=(-1, None))
means = [np.mean(found) for found in shares.values()]
print(
    f"With at most {100 * TARGET:.0f} % errors, 300 labels of any cases accept "
    f"{100 * means[0]:.0f} % of the pool on average, and 300 labels of cases that `draw` takes "
    f"{100 * means[1]:.0f} %. Each line is a draw."
)
pyplot.show()
