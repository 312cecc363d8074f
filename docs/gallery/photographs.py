"""Which images does it leave to me?

Details of eight photographs that ship with scikit-image: which photograph is a detail of? As with
any camera, some details are dark, noisy or out of focus.
"""

# %% Details of the left half of a photograph train the classifier; those of its right half do not.
import numpy as np
from matplotlib import pyplot
from PIL import Image, ImageFilter
from skimage import data
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from misgiving import Deferral

PHOTOGRAPHS = {
    "brick": data.brick,
    "cat": data.chelsea,
    "coffee": data.coffee,
    "coins": data.coins,
    "grass": data.grass,
    "gravel": data.gravel,
    "moon": data.moon,
    "rocket": data.rocket,
}


def details(count, *, right, side=80, seed=0):
    """Details of photographs drawn by chance, out of focus and dark by chance, with their names."""
    rng = np.random.default_rng(seed)
    photographs = {name: Image.fromarray(read()) for name, read in PHOTOGRAPHS.items()}
    names, images = rng.choice([*photographs], count), []
    for name in names:
        width, height = photographs[name].size
        size = rng.integers(90, 150)
        left = rng.integers(0, width // 2 - size) + right * (width // 2)
        top = rng.integers(0, height - size)
        image = photographs[name].convert("RGB").crop((left, top, left + size, top + size))
        image = image.filter(ImageFilter.GaussianBlur(rng.exponential(1.0))).resize((side, side))
        pixels = np.asarray(image) * rng.uniform(0.3, 1.1) + rng.normal(0, 4, (side, side, 3))
        images.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return np.stack(images), names


# %% What the classifier sees: colours, and how sharp edges are at four scales, whatever the light.
def features(images):
    """Colours, and edges at four scales, whatever the light."""
    light = images.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float32)
    small, values = images / (light + 1), []
    for _ in range(4):
        edges = [np.diff(small.mean(axis=3), axis=axis) for axis in (1, 2)]
        values += [np.log(abs(each).mean(axis=(1, 2)) + 0.01)[:, None] for each in edges]
        values += [small.mean(axis=(1, 2)), small.std(axis=(1, 2))]
        small = (small[:, ::2, ::2] + small[:, 1::2, 1::2]) / 2
    return np.concatenate(values, axis=1)


train, y_train = details(800, right=False, seed=1)
cases, y_cases = details(1000, right=True, seed=2)
classifier = make_pipeline(
    FunctionTransformer(features), StandardScaler(), LogisticRegression(max_iter=1000)
).fit(train, y_train)
deferral = Deferral(max_error=0.05).fit(classifier, cases, y_cases)
print(deferral.certificate_)

# %% New details: for each answer the first one that is accepted, and the least certain deferred.
new, y_new = details(400, right=True, seed=3)
probabilities = classifier.predict_proba(new)
decisions = deferral.decide(probabilities)
accepted = decisions.decisions == "accept"
by_score = np.argsort(decisions.acceptance_score)
shown = []
for rows in (np.flatnonzero(accepted), by_score[~accepted[by_score]]):
    shown += [*rows[np.unique(decisions.predicted[rows], return_index=True)[1]]]
deferral.decide(probabilities[shown]).plot(images=new[shown])

wrong = decisions.wrong(y_new)
print(
    f"Of {len(new)} answers {100 * wrong.mean():.0f} % are wrong. It accepts "
    f"{100 * accepted.mean():.0f} %, of which {100 * wrong[accepted].mean():.1f} % are wrong. "
    "Above are details whose answer it accepts, below those whose answers are the least certain, "
    "one for each answer."
)
pyplot.show()
