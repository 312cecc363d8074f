"""The class, or else at least what kind of thing it is?

Where a classifier cannot tell two species of one genus apart, the genus may be certain. With
`answer="finest"` the policy answers the class, else its superclass, else asks a person.
"""

# %% Made outputs: four genera of three species, which are easily confused within a genus.
import numpy as np
from matplotlib import pyplot

from misgiving import Deferral

GENERA = {genus: [f"{genus} {number}" for number in (1, 2, 3)] for genus in "ABCD"}
SPECIES = [species for group in GENERA.values() for species in group]


def outputs(count, seed):
    """Logits of species, and their true positions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(SPECIES), count)
    same_genus = np.arange(len(SPECIES)) // 3 == labels[:, None] // 3
    clarity = rng.gamma(2.0, 0.5, (count, 1))  # some inputs are hopeless
    signal = clarity * (3.0 * np.eye(len(SPECIES))[labels] + 3.0 * same_genus)
    return 1.3 * (signal + rng.normal(size=(count, len(SPECIES)))), labels


logits, labels = outputs(3000, seed=1)
new, y_new = outputs(5000, seed=2)

# %% The same target, 5 % errors, for three kinds of answer.
shares = {}
for answer in ("class", "superclass", "finest"):
    deferral = Deferral(max_error=0.05, superclasses=GENERA, answer=answer)
    decisions = deferral.fit(logits, labels, classes=SPECIES).decide(new)
    accepted, species = (
        decisions.decisions == "accept",
        decisions.as_class & (answer != "superclass"),
    )
    shares[answer] = [(accepted & species).mean(), (accepted & ~species).mean(), (~accepted).mean()]

# %%
axes = pyplot.subplots(figsize=(7, 2.6))[1]
left = np.zeros(3)
for name, widths in zip(
    ("species", "genus alone", "asked a person"), 100 * np.array([*shares.values()]).T, strict=True
):
    axes.barh([f'answer="{answer}"' for answer in shares], widths, left=left, label=name)
    left += widths
axes.set(xlabel="inputs (%)", xlim=(0, 100))
axes.grid(axis="y", visible=False)
axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
print(
    f"With species alone {100 * shares['class'][2]:.0f} % of the inputs go to a person. `finest` "
    f"answers the species in {100 * shares['finest'][0]:.0f} %, the genus in "
    f"{100 * shares['finest'][1]:.0f} %, and asks a person in {100 * shares['finest'][2]:.0f} %."
)
pyplot.show()
