"""Measure how often 95 % intervals of a difference between two models contain the truth.

    python benchmarks/trial_intervals.py [--data-sets 1000]

The truth is the difference in accuracy between two learning algorithms, on average over trainings
with so many images, on new images of the same population. In each simulated data set, T trials
train both and measure the difference:

- `model`: the difference of each trial is drawn from a normal distribution, and its test images
  are drawn anew; `spread` is the standard deviation between trainings over that of the test draw;
- `splits`: a nearest-centroid classifier and a linear one are trained and tested on T random
  splits of one set of images, as `reproduce` does; `spread` is the share of images trained on.

`bootstrap`: percentiles of 500 replicates over trials and test images together. `t`: a t-interval
over the trials' differences. `corrected t`: the same with the variance of Nadeau and Bengio (2003).
One less a share is how often the interval excludes a truth of zero.
"""

import argparse
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.metrics.uncertainty import bootstrap, percentile_interval, t_interval

TRIALS = (3, 5, 10)
SPREADS = (0.0, 0.5, 1.0, 2.0)
TRAIN_SHARES = (0.9, 0.5, 0.15)
CLASSES, WIDTH, IMAGES = 5, 12, 400
TEST_IMAGES = 300
REPLICATES = 500
HEADER = ("trials", "simulation", "spread", "bootstrap", "t", "corrected t")


class Trials(NamedTuple):
    """One data set: by trial, the difference of correctness of each test image, and its name."""

    differences: list[Float[np.ndarray, " test"]]
    images: list[Int[np.ndarray, " test"]]
    truth: float
    split_ratio: float


def intervals_of(data: Trials, seed: int) -> list[tuple[float, float]]:
    """The three intervals of the mean difference."""
    means = [float(of_trial.mean()) for of_trial in data.differences]
    statistics = [
        lambda weights, values=values: {"difference": weights @ values / weights.sum(axis=-1)}
        for values in data.differences
    ]
    groups = [(images,) for images in data.images]
    drawn = bootstrap(statistics, groups, replicates=REPLICATES, seed=seed)["difference"]
    plain, corrected = (t_interval(means, split_ratio=ratio) for ratio in (0.0, data.split_ratio))
    return [percentile_interval(drawn), plain[1:3], corrected[1:3]]


def drawn_from_model(trials: int, spread: float, random: np.random.Generator) -> Trials:
    """Differences of correctness in {-1, 0, 1} on fresh images, around a mean by training."""
    truth, disagreement = 0.0, 0.2
    of_test = np.sqrt(disagreement / TEST_IMAGES)
    differences = []
    for _ in range(trials):
        mean = float(np.clip(random.normal(truth, spread * of_test), -disagreement, disagreement))
        better, worse = (disagreement + mean) / 2, (disagreement - mean) / 2
        draws = random.choice([1.0, -1.0, 0.0], TEST_IMAGES, p=[better, worse, 1 - disagreement])
        differences.append(draws)
    names = [np.arange(TEST_IMAGES) + TEST_IMAGES * trial for trial in range(trials)]
    return Trials(differences, names, truth, 0.0)


class Population(NamedTuple):
    """Gaussian classes, and the expected difference of the two learners after training."""

    centres: Float[np.ndarray, "classes width"]
    truth: float

    def draw(
        self, count: int, random: np.random.Generator
    ) -> tuple[Float[np.ndarray, "n width"], Int[np.ndarray, " n"]]:
        labels = random.integers(CLASSES, size=count)
        scales = np.linspace(0.5, 1.5, WIDTH)
        return self.centres[labels] + scales * random.normal(size=(count, WIDTH)), labels


def correctness(
    images: Float[np.ndarray, "n width"],
    labels: Int[np.ndarray, " n"],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
) -> Float[np.ndarray, " test"]:
    """Correctness of the linear classifier less that of the nearest centroid."""
    training_images, seen = images[train], labels[train]
    centroids = np.stack([training_images[seen == k].mean(axis=0) for k in range(CLASSES)])
    distances = ((images[test, None] - centroids) ** 2).sum(axis=-1)
    design = np.column_stack([training_images, np.ones(len(training_images))])
    penalty = 5.0 * np.eye(WIDTH + 1)
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ np.eye(CLASSES)[seen])
    linear = np.column_stack([images[test], np.ones(len(test))]) @ weights
    right: list[Bool[np.ndarray, " test"]] = [
        linear.argmax(axis=1) == labels[test],
        distances.argmin(axis=1) == labels[test],
    ]
    return right[0].astype(float) - right[1]


def population_of(share: float, random: np.random.Generator) -> Population:
    """A population with the truth for trainings on `share` of the images, by simulation."""
    population = Population(random.normal(size=(CLASSES, WIDTH)) * 0.55, 0.0)
    train, differences = np.arange(round(share * IMAGES)), []
    for _ in range(1000):
        images, labels = population.draw(len(train) + 2000, random)
        differences.append(
            correctness(images, labels, train, np.arange(len(train), len(images))).mean()
        )
    return population._replace(truth=float(np.mean(differences)))


def split_trials(
    population: Population, trials: int, share: float, random: np.random.Generator
) -> Trials:
    """Trials that each redraw the split of one set of images."""
    images, labels = population.draw(IMAGES, random)
    train, differences, names = round(share * IMAGES), [], []
    for _ in range(trials):
        order = random.permutation(IMAGES)
        differences.append(correctness(images, labels, order[:train], order[train:]))
        names.append(order[train:])
    return Trials(differences, names, population.truth, (IMAGES - train) / train)


def table(data_sets: int, seed: int) -> Iterator[tuple[str, ...]]:
    """One row for each cell."""
    for trials in TRIALS:
        for spread in SPREADS:
            random = np.random.default_rng([seed, trials, round(10 * spread)])
            drawn = (drawn_from_model(trials, spread, random) for _ in range(data_sets))
            yield (str(trials), "model", f"{spread:g}", *_rates(drawn))
        for share in TRAIN_SHARES:
            random = np.random.default_rng([seed, trials, round(100 * share), 1])
            population = population_of(share, random)
            split = (split_trials(population, trials, share, random) for _ in range(data_sets))
            yield (str(trials), "splits", f"{share:g}", *_rates(split))


def _rates(drawn: Iterator[Trials]) -> list[str]:
    """Coverage of each interval."""
    inside = [
        [lower <= data.truth <= upper for lower, upper in intervals_of(data, seed=number)]
        for number, data in enumerate(drawn)
    ]
    return [f"{share:.3f}" for share in np.mean(inside, axis=0)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage of intervals over trials.")
    parser.add_argument("--data-sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    rows = [HEADER, ("---",) * len(HEADER), *table(options.data_sets, options.seed)]
    print(*(f"| {' | '.join(row)} |" for row in rows), sep="\n")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
