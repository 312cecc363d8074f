"""Is this input unlike anything that the classifier was trained on?

A classifier of the digits 0 to 7 calls an 8 or a scrap of a photograph one of these, too. Given
features, the policy calls inputs out-of-distribution (OOD) that are far from the training data; how
many ordinary inputs it may flag is limited, how many others it detects is not.
"""

# %% Digits 0 to 7, the digits 8 and 9, and scraps of photographs of 8 x 8 pixels.
import numpy as np
from matplotlib import pyplot
from skimage import data
from skimage.util import view_as_blocks
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from misgiving import Deferral, Predictions

digits, labels = load_digits(return_X_y=True)
known, unseen = digits[labels < 8] / 16, digits[labels >= 8] / 16
labels = labels[labels < 8]
blocks = view_as_blocks(data.camera(), (8, 8)).reshape(-1, 64)[::10] / 255
names, shares = ["train", "tune", "calibrate", "test"], [0.4, 0.1, 0.3, 0.2]
sets = np.random.default_rng(0).choice(names, len(known), p=shares)
classifier = LogisticRegression().fit(known[sets == "train"], labels[sets == "train"])


def predictions(pixels, **columns):
    """Logits, and the pixels as features."""
    logits = classifier.decision_function(pixels)
    return Predictions.of({"logits": logits, "features": pixels, **columns})


# %% Rows of the set `train` fit the detector.
known_predictions = predictions(known, label=labels, set=sets)
deferral = Deferral(max_error=0.05).fit(known_predictions)
groups = {
    "new digits 0 to 7": known_predictions.in_set("test"),
    "digits 8 and 9": predictions(unseen),
    "scraps of a photograph": predictions(blocks),
}

# %%
axes, flagged = pyplot.subplots()[1], []
for name, each in groups.items():
    decisions = deferral.decide_for(each)
    flagged.append((decisions.decisions == "ood").mean())
    label = f"{name}: {100 * flagged[-1]:.0f} % flagged"
    axes.hist(decisions.ood_score, bins=40, density=True, histtype="step", label=label)
axes.axvline(deferral.certificate_.ood_threshold, color="black", linestyle="--", linewidth=1)
axes.set(xlabel="OOD score (lower is less familiar)", yticks=[])
axes.legend()
print(
    f"Left of the line an input is called OOD: {100 * flagged[0]:.0f} % of new digits, "
    f"{100 * flagged[1]:.0f} % of the digits that were not in the training set, "
    f"{100 * flagged[2]:.0f} % of the scraps."
)
pyplot.show()
