"""Measure models with people who read the images that the models doubt.

    python benchmarks/team.py PREDICTIONS [--draws 200]

Two networks for CIFAR-10 in PREDICTIONS, the folder that `guarantee.py` reads, and about 50 human
answers for each image (CIFAR-10H). Each draw divides the images by chance into 1,000 for tuning,
1,000 for calibration and 8,000 to measure, and draws a human answer for each image. Prints a
Markdown table of means over draws, and between which values 95 % of the draws lie.

The last rows are of a prompt to look again: where the reader's answer has a posterior probability
below a level, given also the model, it is replaced by the answer of another person. So it is taken
for granted that who looks again answers as another person would.
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Int

from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.evaluation.readers import (
    DEFERRED_SHARES,
    TUNING,
    combine,
    confusion_of,
    fit_likelihood,
    measure_readers,
)
from misgiving.predictions.record import Predictions

NETWORKS = ("preresnet-110", "resnet-110")
TUNED = 1000  # images in each of the sets tune and calibrate
MAX_ERROR = 0.02
FIFTH = 8  # its position among the shares
LEVELS = (0.05, 0.2, 0.5)  # of the posterior probability of an answer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    folder = options.predictions / "cifar10h"
    drawn = [
        [measure(folder / f"{network}.npz", seed) for seed in range(options.draws)]
        for network in NETWORKS
    ]
    print("| right answers |", " | ".join(NETWORKS), "|")
    print("|---" * (1 + len(NETWORKS)) + "|")
    for row in drawn[0][0]:
        cells = []
        for draws in drawn:
            values = [values[row] for values in draws]
            low, high = np.quantile(values, [0.025, 0.975])
            cells.append(f"{np.mean(values):.4f} ({low:.3f} to {high:.3f})")
        print(f"| {row} |", " | ".join(cells), "|")


def measure(path: Path, seed: int) -> dict[str, float]:
    """Values of one draw, by row of the table."""
    random = np.random.default_rng(seed)
    with np.load(path) as arrays:
        labels, counts = arrays["label"], arrays["human_counts"]
        probabilities = arrays["probabilities"].astype(np.float64)
    first, second = (human_answers(counts, random) for _ in range(2))
    sets = np.full(len(labels), "test", dtype=object)
    order = random.permutation(len(labels))
    sets[order[:TUNED]], sets[order[TUNED : 2 * TUNED]] = TUNING
    columns = {"probabilities": probabilities / probabilities.sum(axis=1, keepdims=True)}
    columns |= {"label": labels, "set": sets, "reader_human": first}
    predictions = Predictions.of(columns)
    tuning, measured = predictions.in_set(*TUNING), predictions.in_set("test")
    deferral = Deferral(max_error=MAX_ERROR, seed=seed).fit(tuning)
    decisions = deferral.decide(measured)
    (team,) = measure_readers(tuning, measured, decisions, deferral).teams
    right = {way: share.value for way, share in team.accuracy.items()}
    fifth = {way: curve[FIFTH].value for way, curve in team.curves.items()}
    return {
        "model alone": right["model"],
        "reader alone": right["reader"],
        "deferral, best share": right["deferral"],
        "share of the best deferral": team.best["deferral"],
        "combination, best share": right["combination"],
        "share of the best combination": team.best["combination"],
        "deferral of a fifth": fifth["deferral"],
        "combination on a fifth": fifth["combination"],
        "combination on a fifth - best deferral": fifth["combination"] - right["deferral"],
        f"policy for an error of {MAX_ERROR}": right["policy"],
        "certified: wrong at most": team.bound.upper,
        **measure_prompt(tuning, measured, decisions, second[sets == "test"]),
    }


def measure_prompt(
    tuning: Predictions,
    measured: Predictions,
    decisions: Decisions,
    others: Int[np.ndarray, " n"],
) -> dict[str, float]:
    """Right answers where the reader looks again, and in how many of the answers."""
    answers, labels = measured.readers["human"], measured.labels
    confusion = confusion_of(
        tuning.labels, tuning.readers["human"], num_classes=len(tuning.classes)
    )
    posterior = combine(decisions.probabilities, answers, fit_likelihood(confusion))
    of_answers = posterior[np.arange(len(answers)), answers]
    ranks = np.argsort(np.argsort(decisions.acceptance_score, kind="stable"))
    values = {}
    for name, share in (("deferral of a fifth", DEFERRED_SHARES[FIFTH]), ("reader alone", 1.0)):
        is_read = ranks < round(share * len(answers))
        for level in LEVELS:
            looks = is_read & (of_answers < level)
            final = np.where(looks, others, np.where(is_read, answers, decisions.predicted))
            row = f"{name}, looks again below {level}"
            values[row] = float((final == labels).mean())
            values[f"{row}: share"] = float(looks.sum() / is_read.sum())
    return values


def human_answers(
    counts: Int[np.ndarray, "n classes"], random: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """An answer drawn for each image from those that people gave."""
    upto = np.cumsum(counts, axis=1)
    return (random.integers(upto[:, -1:]) >= upto).sum(axis=1)


if __name__ == "__main__":
    main()
