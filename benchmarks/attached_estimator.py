"""Compare what a loss estimator that is attached to a trained classifier reads and learns.

    python benchmarks/attached_estimator.py RUN DATA [--divisions 5]

The classifier is that of RUN, frozen. Of the images of DATA that RUN was not trained on, a random
half of the groups teaches the estimator, with the settings of `attach`, and the other half measures
it. Prints a Markdown table of means over the divisions: Spearman correlation of predicted and true
loss, and AURC of the predicted loss. `difference` is with logits minus without, with a 95 %
t-interval over the divisions, widened since these share their images (Nadeau and Bengio, 2003).
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from tuning_share import predicted

from misgiving.checkpoint import Architecture, load
from misgiving.configuration import default_cache
from misgiving.data.splits import partition_groups
from misgiving.metrics.selective import aurc
from misgiving.metrics.trials import t_interval
from misgiving.results.predictions import Predictions
from misgiving.training.estimator import fit_estimator
from misgiving.training.loop import seeded
from misgiving.training.recipes import ATTACHED

MEASURES = ("correlation", "AURC")
HEADER = ("learns", "measure", "without logits", "with logits", "difference")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data")
    parser.add_argument("--divisions", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=default_cache())
    asked = parser.parse_args()
    new, _ = predicted(asked.run, asked.data, asked.cache)
    architecture = load(asked.run).architecture
    found = np.empty((2, 2, asked.divisions, len(MEASURES)))
    largest = np.empty((asked.divisions, len(MEASURES) - 1))
    for seed in range(asked.divisions):
        learned, measured = (
            new.select(rows) for rows in partition_groups(new.groups, 2, seed=seed)
        )
        largest[seed] = aurc(measured.probabilities.max(axis=1), measured.errors)
        for at, (auxiliary, reads) in enumerate(product(("ranking", "mse"), (False, True))):
            given = replace(architecture, reads_logits=reads)
            losses = estimated(given, learned, measured, auxiliary, seed)
            found[*divmod(at, 2), seed] = [
                spearmanr(losses, measured.true_losses())[0],
                aurc(-losses, measured.errors),
            ]
    print("| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|", sep="\n")
    for cells in rows_of(found):
        print("| " + " | ".join(cells) + " |")
    print(f"AURC of the softmax: {largest.mean():.4f}; {len(new)} images, half of them measured")


def estimated(
    architecture: Architecture,
    learned: Predictions,
    measured: Predictions,
    auxiliary: str,
    seed: int,
) -> np.ndarray:
    """Predicted losses of the measured images by an estimator that learned from the others."""
    with seeded(seed):
        model = architecture.build()
    fit_estimator(model, learned, measured, replace(ATTACHED, auxiliary=auxiliary, seed=seed))
    assert model.loss_estimator is not None
    assert measured.taps is not None
    taps = torch.from_numpy(measured.taps).split(list(model.reader.channels), dim=1)
    with torch.no_grad():
        return model.loss_estimator(list(taps), torch.from_numpy(measured.logits)).numpy()


def rows_of(found: np.ndarray) -> Iterator[tuple[str, ...]]:
    """Cells of the table, a row for each objective and measure."""
    for objective, of in zip(("order (ranking)", "losses (mse)"), found, strict=True):
        for number, measure in enumerate(MEASURES):
            without, with_logits = of[:, :, number]
            difference = t_interval(with_logits - without, split_ratio=1.0)
            yield (
                objective,
                measure,
                *(f"{values.mean():.3f}" for values in (without, with_logits)),
                f"{difference.mean:+.3f} ({difference.lower:+.3f} to {difference.upper:+.3f})",
            )


if __name__ == "__main__":
    main()
