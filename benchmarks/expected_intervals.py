"""Check the interval of the share of errors among the accepted, which is estimated without labels.

    python benchmarks/expected_intervals.py PREDICTIONS [--batches 500] [--seed 0]

The predictions of a model of PREDICTIONS, the folder that `guarantee.py` reads, are the population.
With label noise, a share of its labels is replaced by another class, for cases and batches alike.
Labelled cases are drawn with replacement, and a fifth of them tunes a policy for new batches.
Policies that accept too few calibration cases for an interval are left out: their share is
`refused`. Prints a Markdown table.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
from guarantee import read_predictions
from jaxtyping import Float, Int

from misgiving.deferral.deferral import Deferral
from misgiving.deferral.expected_performance import ExpectedError, expected_errors
from misgiving.groups import TUNING_PARTS

MODEL, MAX_ERROR = "logits/pathmnist_resnet50.npz", 0.15
NOISES, SIZES = (0.0, 0.05, 0.1), (80, 300, 1200)
SHARING, IMAGES, ROUNDING = 5, 500, 1e-9  # batches of each policy, and their images
HEADER = (
    *("label noise", "cases", "refused", "batches", "true error", "expected - true"),
    *("covered", "true error above", "median width"),
)

Logits = Float[np.ndarray, "n classes"]
Labels = Int[np.ndarray, " n"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases, logits = read_predictions(options.predictions / MODEL)
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|")
    for noise, size in product(NOISES, SIZES):
        random = np.random.default_rng([options.seed, round(1000 * noise), size])
        labels = with_noise(cases.labels, noise, logits.shape[1], random)
        row = measured(logits, labels, size, options.batches, random)
        print(f"| {noise:g} | {size:,} | {' | '.join(row)} |", flush=True)


def with_noise(labels: Labels, share: float, classes: int, random: np.random.Generator) -> Labels:
    """Replace a share of the labels by another class."""
    is_replaced = random.random(len(labels)) < share
    return (labels + is_replaced * random.integers(1, classes, size=len(labels))) % classes


def measured(
    logits: Logits, labels: Labels, size: int, batches: int, random: np.random.Generator
) -> list[str]:
    """Cells of a row: draw policies until there are so many batches."""
    policies, refused = 0, 0
    true: list[float] = []
    intervals: list[ExpectedError] = []
    while len(intervals) < batches:
        rows = random.integers(len(labels), size=size)
        sets = ((logits[part], labels[part]) for part in np.split(rows, [size // TUNING_PARTS]))
        deferral, policies = Deferral(max_error=MAX_ERROR).fit(*sets), policies + 1
        for images in random.integers(len(labels), size=(SHARING, IMAGES)):
            decided = deferral.decide(logits[images])
            accepted = decided.decisions == "accept"
            expected = expected_errors(deferral, decided.error_probability, accepted)
            if expected is None or expected[1] is None:
                refused += 1
                break
            intervals.append(expected[1])
            true.append(float((decided.predicted != labels[images])[accepted].mean()))
    errors, (_, estimates, lower, upper) = np.array(true), np.array(intervals).T
    above = errors > upper + ROUNDING
    return [
        f"{refused / policies:.3f}",
        f"{len(errors)}",
        f"{errors.mean():.3f}",
        f"{(estimates - errors).mean():+.3f}",
        f"{1 - (above | (errors < lower - ROUNDING)).mean():.3f}",
        f"{above.mean():.3f}",
        f"{np.median(upper - lower):.3f}",
    ]


if __name__ == "__main__":
    main()
