"""Compare the performance that is expected without labels with the true one.

    python benchmarks/expected_performance.py RUN DATA [--subgroup COLUMN=VALUE] [--other IMAGES]

The images of DATA that RUN was not trained on are divided by group, at random: a third is for the
batch, and of the rest a fifth tunes and four fifths certify a policy, as `calibrate` does with
new images. The batch has one image of each group, as the calibration cases are. In some divisions
it is also altered: with all images of each group, other shares of classes, a part of its images,
blurred, noisy or compressed, and images of another source, for which every answer is wrong. Prints
two Markdown tables, of all images and of those accepted: means over the divisions, and how often
the interval contains the true share, drift is reported, and the interval misses the true share
although no drift is reported.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageFilter

from misgiving.checkpoint import Checkpoint, load
from misgiving.data.cache import ImageSet, prepare
from misgiving.data.datasets import load_dataset, unlabelled_images
from misgiving.data.datasets.dataset import Dataset
from misgiving.deferral.decision_tables import DecisionRow
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.expected_performance import ExpectedError, expected_performance
from misgiving.files import default_cache
from misgiving.groups import TUNING_PARTS, one_per_group, partition_groups
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors

THIRDS = 3
PLAIN, OTHER = "as calibrated", "images of another source"
HEADER = (
    *("batch", "images", "true error", "expected - true", "width of the interval"),
    *("covered", "drift reported", "missed, no drift reported"),
)


class Outcome(NamedTuple):
    """The true share of errors of a batch, the expected one, and whether drift was reported."""

    true: float
    expected: ExpectedError
    drift: bool

    @property
    def covered(self) -> bool:
        """Rounding can move a share that is exactly at an end of the interval."""
        return self.expected.lower - 1e-9 <= self.true <= self.expected.upper + 1e-9


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--subgroup", metavar="COLUMN=VALUE", help="a column of the data")
    parser.add_argument("--other", type=Path, help="a folder of images of none of the classes")
    parser.add_argument("--max-error", type=float, default=0.1)
    parser.add_argument("--divisions", type=int, default=200)
    parser.add_argument("--altered", type=int, default=40, help="divisions with altered batches")
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()
    forms, detectors, of_subgroup = predicted(asked)
    outcomes: dict[str, list[tuple[Outcome, Outcome | None]]] = defaultdict(list)
    for seed in range(asked.divisions):
        deferral, pool = divided(forms[PLAIN], detectors, asked.max_error, seed)
        shown = altered(forms, pool, of_subgroup, seed)
        for name, predictions in islice(shown, None if seed < asked.altered else 1):
            outcomes[name] += measured(deferral, predictions)
    for title, number in (("All images", 0), ("Accepted images", 1)):
        print(f"\n{title}\n\n| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
        for name, of in outcomes.items():
            print(f"| {' | '.join(cells(name, [pair[number] for pair in of]))} |")


def predicted(
    asked: argparse.Namespace,
) -> tuple[dict[str, Predictions], FittedDetectors, Bool[np.ndarray, " n"]]:
    """Predictions of the new images in all forms, fitted detectors, and the images of the subgroup.

    The last form is that of another source, where there is one.
    """
    checkpoint, dataset = load(asked.run), load_dataset(asked.data)
    images = prepare(dataset, checkpoint.preprocessing, cache=asked.cache)
    if images.ids != checkpoint.split.ids:
        raise SystemExit(f"{asked.data} is not the data that {asked.run} was trained on")
    images = replace(images, groups=checkpoint.split.groups)
    is_new = np.array(checkpoint.split.sets) != "train"
    trained, new = (images.select(np.flatnonzero(rows)) for rows in (~is_new, is_new))
    forms = {PLAIN: predictions_of(checkpoint, new)}
    forms |= {name: predictions_of(checkpoint, changed(new, of)) for name, of in PIXELS.items()}
    if asked.other is not None:
        forms[OTHER] = predicted_other(checkpoint, asked)
    detectors = FittedDetectors.fit(predictions_of(checkpoint, trained))
    return forms, detectors, in_subgroup(dataset, asked.subgroup)[is_new]


def divided(
    predictions: Predictions, detectors: FittedDetectors, max_error: float, seed: int
) -> tuple[Deferral, np.ndarray]:
    """A policy, and the positions of the images that are left for a batch."""
    left, *rest = partition_groups(predictions.units, THIRDS, seed=seed)
    for_policy = predictions.select(np.sort(np.concatenate(rest)))
    tuned, *certified = partition_groups(for_policy.units, TUNING_PARTS, seed=seed)
    tuning = for_policy.select(tuned)
    calibration = for_policy.select(np.sort(np.concatenate(certified)))
    deferral = Deferral(max_error=max_error, max_ood_false_alarms=0.05, seed=seed)
    return deferral.certify(tuning, calibration, detectors=detectors), left


def altered(
    forms: dict[str, Predictions], pool: np.ndarray, of_subgroup: np.ndarray, seed: int
) -> Iterator[tuple[str, Predictions]]:
    """The batch as it is, and in its altered forms."""
    random, plain = np.random.default_rng(seed), forms[PLAIN]
    batch = pool[one_per_group(plain.units[pool], seed=seed)]
    labels = plain.labels[batch]
    counts = np.bincount(labels, minlength=len(plain.classes))
    yield PLAIN, plain.select(batch)
    if len(pool) > len(batch):
        yield "all images of each group", plain.select(pool)
    yield "without the commonest class", plain.select(batch[labels != counts.argmax()])
    kept = random.random(len(batch)) < np.median(counts[counts > 0]) / counts[labels]
    yield "common classes made rarer", plain.select(batch[kept])
    yield "only the commonest class", plain.select(batch[labels == counts.argmax()])
    if of_subgroup.any():
        yield "subgroup", plain.select(batch[of_subgroup[batch]])
    for name in PIXELS:
        yield name, forms[name].select(batch)
    if OTHER in forms:
        yield OTHER, forms[OTHER]


def measured(deferral: Deferral, predictions: Predictions) -> list[tuple[Outcome, Outcome | None]]:
    """Outcomes of all images and of those accepted; nothing where none could be estimated."""
    decided = deferral.decide(predictions)
    accepted, wrong = decided.decisions == "accept", decided.predicted != predictions.labels
    found = expected_performance(deferral.policy_, map(DecisionRow, predictions.ids, decided))
    if found is None:
        return []
    of_all, of_accepted = found.errors
    drift = bool(found.alarms or found.gaps)
    return [
        (
            Outcome(float(wrong.mean()), of_all, drift),
            of_accepted and Outcome(float(wrong[accepted].mean()), of_accepted, drift),
        )
    ]


def changed(images: ImageSet, change: Callable[[Image.Image], Image.Image]) -> ImageSet:
    """The images after a change of their pixels."""
    pixels = images.read(np.arange(len(images)))
    found = np.stack([np.asarray(change(Image.fromarray(square))) for square in pixels])
    return replace(images, images=found, rows=np.arange(len(images)), record=None)


def blurred(share: float, image: Image.Image) -> Image.Image:
    """Blur with a standard deviation of this share of the width."""
    return image.filter(ImageFilter.GaussianBlur(share * image.width))


def noisy(deviation: float, image: Image.Image) -> Image.Image:
    """Add normal noise of this many grey levels; the same noise to equal images."""
    pixels = np.asarray(image, dtype=float)
    random = np.random.default_rng(int(pixels.sum()))
    noise = random.normal(scale=deviation, size=pixels.shape)
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def compressed(quality: int, image: Image.Image) -> Image.Image:
    """Write as JPEG of this quality, and read."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


PIXELS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurred a little": partial(blurred, 1 / 64),
    "blurred": partial(blurred, 1 / 20),
    "a little noisy": partial(noisy, 8),
    "noisy": partial(noisy, 40),
    "JPEG of quality 30": partial(compressed, 30),
    "JPEG of quality 5": partial(compressed, 5),
}


def in_subgroup(dataset: Dataset, asked: str | None) -> Bool[np.ndarray, " n"]:
    """True for the images of the subgroup."""
    if asked is None:
        return np.zeros(len(dataset), dtype=bool)
    column, _, value = asked.partition("=")
    return np.array([str(one) == value for one in dataset.metadata[column]])


def predicted_other(checkpoint: Checkpoint, asked: argparse.Namespace) -> Predictions:
    """Predictions for images of none of the classes."""
    dataset = unlabelled_images([asked.other], name="other")
    images = prepare(dataset, checkpoint.preprocessing, cache=asked.cache)
    images = replace(images, classes=checkpoint.classes, labels=np.full(len(images), -1))
    return predictions_of(checkpoint, images)


def cells(name: str, outcomes: list[Outcome | None]) -> tuple[str, ...]:
    """Cells of one row."""
    found = [one for one in outcomes if one is not None]
    if not found:
        return name, *("",) * (len(HEADER) - 1)
    difference = [one.expected.error - one.true for one in found]
    widths = [one.expected.upper - one.expected.lower for one in found]
    silent = [not one.covered and not one.drift for one in found]
    return (
        name,
        f"{np.mean([one.expected.images for one in found]):.0f}",
        f"{np.mean([one.true for one in found]):.3f}",
        f"{np.mean(difference):+.3f}",
        f"{np.mean(widths):.3f}",
        f"{np.mean([one.covered for one in found]):.3f}",
        f"{np.mean([one.drift for one in found]):.3f}",
        f"{np.mean(silent):.3f}",
    )


if __name__ == "__main__":
    main()
