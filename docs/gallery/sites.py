"""Does the promise hold at every site?

A bound on the errors of all answers says nothing about each site that sends inputs. `for_each`
certifies each value of a column with a threshold of its own.
"""

# %% Made outputs: the inputs of site C are harder.
import numpy as np
from matplotlib import pyplot

from misgiving import Deferral, Predictions

SITES, SIGNAL = np.array(["A", "B", "C"]), np.array([4.0, 3.5, 2.8])


def outputs(count, seed):
    """Logits of three classes, with their labels and sites."""
    rng = np.random.default_rng(seed)
    site, labels = rng.choice(3, count, p=[0.5, 0.3, 0.2]), rng.integers(0, 3, count)
    logits = rng.normal(size=(count, 3)) + SIGNAL[site, None] * np.eye(3)[labels]
    return Predictions.of({"logits": logits * 2, "label": labels, "site": SITES[site]})


cases, new = outputs(3000, seed=1), outputs(20_000, seed=2)
policies = {
    "one threshold": Deferral(max_error=0.03).fit(cases),
    "one for each site": Deferral(max_error=0.03, for_each="site").fit(cases),
}

# %% Errors among the accepted, and the share accepted, at each site.
_, panels = pyplot.subplots(1, 2, figsize=(8, 3.4))
site = np.array(new.metadata["site"])
worst = {}
for shift, (name, policy) in zip((-0.2, 0.2), policies.items(), strict=True):
    decisions = policy.decide(new)
    accepted, wrong = decisions.decisions == "accept", decisions.wrong(new.labels)
    errors = [100 * wrong[accepted & (site == each)].mean() for each in SITES]
    shares = [100 * accepted[site == each].mean() for each in SITES]
    for axes, heights in zip(panels, (errors, shares), strict=True):
        axes.bar(np.arange(3) + shift, heights, 0.38, label=name)
    worst[name] = max(errors)
panels[0].axhline(3, color="black", linestyle="--", linewidth=1, label="target")
panels[0].set(ylabel="wrong of the accepted (%)")
panels[1].set(ylabel="accepted (%)")
for axes in panels:
    axes.set_xticks(range(3), SITES)
    axes.set_xlabel("site")
panels[0].legend()
print(
    "With one threshold for all, {:.1f} % of the answers accepted at the worst site are wrong; "
    "with one for each, {:.1f} %. The price: fewer answers there.".format(*worst.values())
)
pyplot.show()
