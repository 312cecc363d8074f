"""What is the confidence worth that a language model states?

A model that judges documents says how sure it is. Often it says too much. From labelled cases the
policy learns what a stated confidence is worth; the answer never changes.
"""

# %% Made judgements: relevant or not, and a confidence in round numbers.
import numpy as np
from matplotlib import pyplot

from misgiving import Deferral, Predictions

rng = np.random.default_rng(0)
LEVELS = [0.6, 0.7, 0.8, 0.9, 0.95, 0.99]


def judgements(count):
    """The columns that a policy takes in place of probabilities, and the truth."""
    truth = rng.choice(["relevant", "irrelevant"], size=count)
    stated = rng.choice(LEVELS, size=count)
    right = rng.random(count) < 0.45 + 0.55 * stated**4  # too sure of itself
    other = np.where(truth == "relevant", "irrelevant", "relevant")
    return {"prediction": np.where(right, truth, other), "confidence": stated, "label": truth}


# %%
deferral = Deferral(max_error=0.2).fit(Predictions.of(judgements(1200)))
print(deferral.certificate_)
levels = {"prediction": ["relevant"] * len(LEVELS), "confidence": LEVELS}
decisions = deferral.decide(levels)

# %% What each stated confidence is worth, and how often such judgements are right among new ones.
new = judgements(20_000)
right = new["prediction"] == new["label"]
observed = [100 * right[new["confidence"] == level].mean() for level in LEVELS]
stated, worth = 100 * np.array(LEVELS), 100 * (1 - decisions.error_probability)
accepted = decisions.decisions == "accept"
axes = pyplot.subplots()[1]
axes.plot(stated, stated, ":", color="black", label="as stated")
axes.plot(stated, worth, "-", label="by the policy")
axes.plot(stated[accepted], worth[accepted], "o", label="accepted")
axes.plot(stated, observed, "x", color="black", label="right of new judgements")
axes.set(xlabel="stated confidence (%)", ylabel="right (%)")
axes.legend()
print(
    f"A stated {stated[-1]:.0f} % is worth {worth[-1]:.0f} %, a stated {stated[0]:.0f} % is worth "
    f"{worth[0]:.0f} %. Judgements from {stated[accepted].min():.0f} % on are accepted."
)
pyplot.show()
