"""Measure how well few tuning images calibrate a classifier.

    python benchmarks/few_tuning_images.py PREDICTIONS [--draws 40] [--seed 0]

The predictions in the folders logits and lesions of PREDICTIONS, which `guarantee.py` reads, are
the populations. Tuning images are drawn with replacement; the calibrated softmax is fitted to them,
and measured on the population. "Balanced": logits as of a classifier that was trained on equal
shares of the classes. Prints a Markdown table of mean log losses in nats, with the share of wrong
answers in brackets.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from guarantee import read_predictions
from jaxtyping import Float, Int
from scipy.special import log_softmax

from misgiving.calibration.maps import fit_scaling

SIZES = (10, 25, 50, 100, 250)

Logits = Float[np.ndarray, "n classes"]
Labels = Int[np.ndarray, " n"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    header = ("predictions", "not calibrated", *(f"{size} images" for size in SIZES))
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for name, logits, labels in populations(options.predictions):
        random, cells = np.random.default_rng(options.seed), [[judged(logits, labels)]]
        for size in SIZES:
            drawn = random.integers(len(labels), size=(options.draws, size))
            fits = [fit_scaling(logits[rows], labels[rows]) for rows in drawn]
            cells.append([judged(scaling.logarithms(logits), labels) for scaling in fits])
        means = (np.mean(each, axis=0) for each in cells)
        print(f"| {name} | {' | '.join(f'{a:.3f} ({b:.3f})' for a, b in means)} |", flush=True)


def populations(folder: Path) -> Iterator[tuple[str, Logits, Labels]]:
    """Name, logits and labels of each."""
    for path in (*sorted(folder.glob("logits/*.npz")), *sorted(folder.glob("lesions/*.npz"))):
        cases, outputs = read_predictions(path)
        logits = outputs.astype(np.float64)
        yield path.stem, logits, cases.labels
        if path.parent.name == "lesions":
            shares = np.bincount(cases.labels, minlength=logits.shape[1]) / len(logits)
            yield f"{path.stem}, balanced", logits - np.log(shares), cases.labels


def judged(logits: Logits, labels: Labels) -> tuple[float, float]:
    """Log loss and share of wrong answers."""
    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    return float(losses.mean()), float((logits.argmax(axis=1) != labels).mean())


if __name__ == "__main__":
    main()
