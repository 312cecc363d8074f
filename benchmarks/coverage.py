"""Compare the coverage that three procedures certify with the same labelled cases.

    python benchmarks/coverage.py [--mapie PYTHON] [--sets 200] [--out TABLE.md]

Each cell has a population whose truth is known, a number of labelled cases, a target error rate
and a confidence. In each of its data sets every procedure gets the same cases with a fixed score:

- ours: as `calibrate` does it, with one quarter for tuning and the rest for certification; and
  with halves.
- SGR (Geifman and El-Yaniv, 2017, algorithm 2), written here from the paper: all cases.
- MAPIE: `BinaryClassificationController` for precision, where a positive is a right answer, on all
  cases: by `bonferroni_holm` (its default), and by fixed sequences from five starts. It runs in
  PYTHON, an interpreter that has MAPIE 1.6 and need not have this package.

Coverage is that of the threshold in the population; a refusal has coverage 0.
"""

import argparse
import math
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from guarantee import simulated
from jaxtyping import Bool, Float
from scipy.special import logsumexp
from scipy.stats import beta
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from misgiving.deferral.scored_cases import ScoredCases
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import CertificationPlan
from misgiving.files import write_text

SIMULATED = {
    "well ranked, base error 0.1": (0.05, 0.1),
    "well ranked, base error 0.3": (0.1, 0.2),
    "weakly ranked, base error 0.1": (0.05, 0.1),
    "confident errors, base error 0.3": (0.1, 0.2),
}
TRAINING_IMAGES = 80  # of the digits: so few that more than a tenth of the answers are wrong
SIZES = (100, 200, 400, 1000)
DIGITS_ERRORS = (0.05, 0.1)
OTHER_CONFIDENCE, OTHER_SIZE = 0.9, 400
SHARES = {"ours": 0.25, "ours, halves": 0.5}
MAPIE = ("MAPIE, Holm", "MAPIE, 5 starts")
WITH_MAPIE = Path(__file__).with_name("coverage_mapie.py")


class Population(NamedTuple):
    """Scores and errors of all cases, and the target error rates to certify."""

    name: str
    targets: tuple[float, ...]
    scores: Float[np.ndarray, " n"]
    wrong: Bool[np.ndarray, " n"]


class Cell(NamedTuple):
    """The question of one row: `positions` are the cases of each data set."""

    population: Population
    max_error: float
    confidence: float
    positions: np.ndarray


class Found(NamedTuple):
    """Coverage of each data set, and whether the target is missed."""

    coverage: Float[np.ndarray, " sets"]
    above: Bool[np.ndarray, " sets"]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mapie", type=Path, help="Python interpreter that has MAPIE")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the table here")
    asked = parser.parse_args()
    cells = list(cells_of(asked.sets, asked.seed))
    found = [compared(cell) for cell in cells]
    if asked.mapie:
        for columns, thresholds in zip(found, by_mapie(cells, asked.mapie), strict=True):
            columns |= thresholds
    measured = [
        {name: truth(cell, thresholds) for name, thresholds in columns.items()}
        for cell, columns in zip(cells, found, strict=True)
    ]
    text = table(cells, measured)
    print(text)
    if asked.out:
        write_text(asked.out, text)


def cells_of(sets: int, seed: int) -> Iterator[Cell]:
    """Every population, number of cases and target; one number of cases at another confidence."""
    for number, population in enumerate(populations(seed)):
        random = np.random.default_rng([seed, number])
        for size in SIZES:
            for confidence in (0.95, *([OTHER_CONFIDENCE] if size == OTHER_SIZE else [])):
                for max_error in population.targets:
                    drawn = random.integers(len(population.scores), size=(sets, size))
                    yield Cell(population, max_error, confidence, drawn)


def populations(seed: int) -> Iterator[Population]:
    """Simulated populations, and the answers of two classifiers for digits."""
    for one in simulated(seed):
        if one.name in SIMULATED:
            yield Population(one.name, SIMULATED[one.name], one.cases.scores, one.cases.wrong)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    seen, fresh = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    logistic = LogisticRegression(C=0.01, max_iter=1000).fit(images[seen], labels[seen])
    bayes = GaussianNB(var_smoothing=0.1).fit(images[seen], labels[seen])
    for name, classifier in {"logistic regression": logistic, "naive Bayes": bayes}.items():
        log_probabilities = classifier.predict_log_proba(images[fresh])
        wrong = classifier.classes_[log_probabilities.argmax(axis=1)] != labels[fresh]
        top = log_probabilities.max(axis=1)
        rest = logsumexp(np.sort(log_probabilities, axis=1)[:, :-1], axis=1)
        ranks = np.argsort(np.argsort(top - rest, kind="stable"))  # of the log-odds: without ties
        label = f"digits, {name}, error {wrong.mean():.2f}"
        yield Population(label, DIGITS_ERRORS, ranks / len(ranks), wrong)


def compared(cell: Cell) -> dict[str, Float[np.ndarray, " sets"]]:
    """The threshold of each procedure in each data set; infinity where nothing is certified."""
    scores, wrong = cell.population.scores, cell.population.wrong
    found = {
        name: np.array([certified(cell, positions, share) for positions in cell.positions])
        for name, share in SHARES.items()
    }
    found["SGR"] = np.array(
        [
            sgr(scores[rows], wrong[rows], max_error=cell.max_error, level=1 - cell.confidence)
            for rows in cell.positions
        ]
    )
    return found


def certified(cell: Cell, positions: np.ndarray, share: float) -> float:
    """The threshold that the library certifies, with this share of the cases for tuning."""
    population, split = cell.population, round(share * len(positions))
    tuning, calibration = (
        ScoredCases(
            scores=population.scores[rows],
            wrong=population.wrong[rows],
            labels=np.zeros(len(rows), dtype=int),
        )
        for rows in (positions[:split], positions[split:])
    )
    plan = CertificationPlan.from_tuning(
        tuning,
        Targets(max_error=cell.max_error, confidence=cell.confidence),
        classes=("only",),
        cases=len(calibration),
    )
    position = int(plan.loosest_certified(plan.count(calibration)))
    return float(plan.thresholds[position]) if position >= 0 else math.inf


def sgr(
    scores: Float[np.ndarray, " n"],
    wrong: Bool[np.ndarray, " n"],
    *,
    max_error: float,
    level: float,
) -> float:
    """Lowest threshold that passes a step of SGR's binary search; infinity where none does."""
    order = np.argsort(scores, kind="stable")
    ordered, errors = scores[order], np.cumsum(wrong[order][::-1])[::-1]
    low, high, passed = 1, len(scores), math.inf
    steps = math.ceil(math.log2(len(scores)))
    for _ in range(steps):
        middle = math.ceil((low + high) / 2)
        threshold = float(ordered[middle - 1])
        start = int(np.searchsorted(ordered, threshold))
        if bound(int(errors[start]), len(scores) - start, level / steps) < max_error:
            high, passed = middle, min(passed, threshold)
        else:
            low = middle
    return passed


def bound(errors: int, cases: int, level: float) -> float:
    """Solve P(Bin(cases, b) <= errors) = level for b (the paper's lemma 3.1).

    >>> round(bound(0, 10, 0.05), 4)  # 1 - 0.05 ** (1 / 10)
    0.2589
    """
    return 1.0 if errors == cases else float(beta.isf(level, errors + 1, cases - errors))


def by_mapie(cells: Sequence[Cell], python: Path) -> list[dict[str, Float[np.ndarray, " sets"]]]:
    """Thresholds that MAPIE certifies, computed by another interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        for number, cell in enumerate(cells):
            np.savez(
                Path(folder) / f"{number}.npz",
                scores=cell.population.scores[cell.positions],
                right=~cell.population.wrong[cell.positions],
                max_error=cell.max_error,
                confidence=cell.confidence,
            )
        subprocess.run([python, WITH_MAPIE, folder], check=True)
        return [
            dict(zip(MAPIE, np.load(Path(folder) / f"{number}-found.npy"), strict=True))
            for number in range(len(cells))
        ]


def truth(cell: Cell, thresholds: Float[np.ndarray, " sets"]) -> Found:
    """Apply each threshold to the whole population."""
    order = np.argsort(-cell.population.scores)
    accepted = np.searchsorted(-cell.population.scores[order], -thresholds, side="right")
    errors = np.append(0, np.cumsum(cell.population.wrong[order]))[accepted]
    return Found(accepted / len(order), errors > cell.max_error * accepted)


def table(cells: Sequence[Cell], measured: Sequence[Mapping[str, Found]]) -> str:
    """Markdown: a row for each cell, then means over cells."""
    names = list(measured[0])
    header = ["population", "target", "confidence", "cases", *names, "above the target"]
    rows = [
        [
            cell.population.name,
            f"{cell.max_error:g}",
            f"{cell.confidence:g}",
            str(cell.positions.shape[1]),
            *(f"{found[name].coverage.mean():.3f}" for name in names),
            " / ".join(f"{found[name].above.mean():.3f}" for name in names),
        ]
        for cell, found in zip(cells, measured, strict=True)
    ]
    sizes = sorted({cell.positions.shape[1] for cell in cells})
    groups = {"all": range(len(cells))} | {
        str(size): [n for n, cell in enumerate(cells) if cell.positions.shape[1] == size]
        for size in sizes
    }
    means = [
        [
            f"{len(group)} cells",
            "",
            "",
            label,
            *(f"{np.mean([measured[n][name].coverage for n in group]):.3f}" for name in names),
            " / ".join(
                f"{max(measured[n][name].above.mean() for n in group):.3f}" for name in names
            ),
        ]
        for label, group in groups.items()
    ]
    lines = [header, ["---"] * len(header), *means, *rows]
    return (
        f"{cells[0].positions.shape[0]} data sets in each of {len(cells)} cells. Coverage is the "
        "mean over data sets, a refusal counting as 0. `above the target`: share of data sets in "
        "which the target is missed, in the order of the columns (in the first rows, the highest "
        "of the cells).\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    )


if __name__ == "__main__":
    main()
