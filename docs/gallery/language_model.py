"""What is the confidence worth that a language model states?

A model that judges documents says how sure it is, or its log-probability does. Often that is too
much. From labelled cases the policy learns what it is worth; the answer never changes.
"""

# %% Made judgements, which are surer than they should be.
import numpy as np
from matplotlib import pyplot
from scipy.special import expit, logit

from misgiving import Deferral, Predictions

rng = np.random.default_rng(0)


def judgements(count):
    """The columns that a policy takes in place of probabilities, and the truth."""
    truth = rng.choice(["relevant", "irrelevant"], size=count)
    stated = rng.uniform(0.5, 0.999, count)
    right = rng.random(count) < expit(0.6 * logit(stated))
    other = np.where(truth == "relevant", "irrelevant", "relevant")
    return {"prediction": np.where(right, truth, other), "confidence": stated, "label": truth}


# %%
deferral = Deferral(max_error=0.15).fit(Predictions.of(judgements(1500)))
print(deferral.certificate_)
stated = np.linspace(0.5, 0.999, 100)
decisions = deferral.decide({"prediction": ["relevant"] * 100, "confidence": stated})

# %% What each stated confidence is worth, and how many judgements are right among new ones.
new = judgements(20_000)
right = new["prediction"] == new["label"]
tenths = np.array_split(np.argsort(new["confidence"]), 10)
worth, accepted = 1 - decisions.error_probability, decisions.decisions == "accept"
axes = pyplot.subplots()[1]
axes.plot(100 * stated, 100 * stated, ":", color="black", label="as stated")
axes.plot(100 * stated, 100 * worth, label="worth, by the policy")
axes.plot(100 * stated[accepted], 100 * worth[accepted], linewidth=4, label="accepted")
axes.plot(
    [100 * new["confidence"][rows].mean() for rows in tenths],
    [100 * right[rows].mean() for rows in tenths],
    "x",
    color="black",
    label="right of new judgements",
)
axes.set(xlabel="stated confidence (%)", ylabel="right (%)")
axes.legend()
print(
    f"A stated 90 % is worth {100 * np.interp(0.9, stated, worth):.0f} %. Judgements are accepted "
    f"from a stated {100 * stated[accepted].min():.0f} % on."
)
pyplot.show()
