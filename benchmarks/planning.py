"""Compare the smallest error that is certified with that of a plan, for as many answers.

    python benchmarks/planning.py PREDICTIONS [--draws 6]

Labelled cases are drawn from the predictions of four models in PREDICTIONS, the folder that
`guarantee.py` reads, and a fifth of them tunes. `plan` does not know how many answers will be
accepted or wrong, and here gets the numbers of the certificate. Prints a Markdown table of the
differences in percentage points: above 0, the certificate is worse than the plan.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from guarantee import read_predictions

from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.remedies import SHARE_OF_RANK
from misgiving.groups import TUNING_PARTS

MODELS = ("pathmnist_resnet50", "cifar10_resnet-20", "cifar10_vgg19_bn", "cifar100_resnet-20")
SIZES = (100, 300, 1000)
UNREACHABLE, LEVEL = 1e-4, 0.05  # a target so low that the smallest error is searched
STEP = 0.1  # percentage points, in which it is searched


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=6)
    options = parser.parse_args()
    print(f"| cases | calibrations | median | lowest to highest | above {STEP} |")
    print("|---" * 5 + "|")
    for size in SIZES:
        points = np.array(
            [
                difference(options.predictions / "logits" / f"{model}.npz", size, draw)
                for model in MODELS
                for draw in range(options.draws)
            ]
        )
        points = points[~np.isnan(points)]
        ends = f"{points.min():+.1f} to {points.max():+.1f}"
        above = f"{(points > STEP).mean():.2f}"
        print(f"| {size:,} | {len(points)} | {np.median(points):+.2f} | {ends} | {above} |")


def difference(path: Path, size: int, draw: int) -> float:
    """Smallest certified minus planned error, in percentage points; NaN if there is none."""
    cases, logits = read_predictions(path)
    rows = np.random.default_rng([draw, size]).integers(len(cases), size=size)
    sets = ((logits[part], cases.labels[part]) for part in np.split(rows, [size // TUNING_PARTS]))
    certificate = Deferral(max_error=UNREACHABLE).fit(*sets).certificate_
    smallest = certificate.smallest_certifiable
    if smallest is None:
        return math.nan
    kept = np.array(certificate.kept)
    best = np.argsort(-np.array(certificate.scores)[kept], kind="stable")[: smallest.accepted]
    wrong = int(np.array(certificate.errors)[kept][best].sum())
    planned = float(upper_bound(wrong, smallest.accepted, level=SHARE_OF_RANK * LEVEL))
    return 100 * (smallest.max_error - planned)


if __name__ == "__main__":
    main()
