"""Compare the coverage that three procedures certify with the same labelled cases.

    pip install 'mapie>=1.6'
    python benchmarks/coverage.py [--sets 200]

Each cell has a population whose truth is known, a number of labelled cases, a target error rate
and a confidence. In each of its data sets every procedure gets the same cases with a fixed score:

- ours: as `calibrate` does it, with a quarter of the cases for tuning and the rest for
  certification; and with halves.
- SGR (Geifman and El-Yaniv, 2017, algorithm 2), written here from the paper: all cases.
- MAPIE: `BinaryClassificationController` on all cases, by `bonferroni_holm` (its default), and by
  fixed sequences from five starts. A positive is a right answer, so a precision of at least
  1 - max_error is an error of at most max_error among the accepted. The thresholds are MAPIE's own,
  0 to 0.99 in steps of 0.01, from strict to loose.

Coverage is that of the threshold in the population; a refusal has coverage 0.
"""

import argparse
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from guarantee import simulated
from jaxtyping import Bool, Float
from mapie.risk_control import BinaryClassificationController, FWERFixedSequenceTesting
from scipy.special import logsumexp
from scipy.stats import beta
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import CertificationPlan, ScoredCases

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
MAPIE = {"MAPIE, Holm": "bonferroni_holm", "MAPIE, 5 starts": FWERFixedSequenceTesting(n_starts=5)}


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


class Truth(NamedTuple):
    """Coverage of each data set, and whether the target is missed."""

    coverage: Float[np.ndarray, " sets"]
    above: Bool[np.ndarray, " sets"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of MAPIE, where nothing can be certified
    cells = list(cells_of(options.sets, options.seed))
    measured = [
        {name: truth(cell, thresholds) for name, thresholds in compared(cell).items()}
        for cell in cells
    ]
    print(table(cells, measured))


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
    for population in simulated(seed):
        if targets := SIMULATED.get(population.name):
            cases = population.cases
            yield Population(population.name, targets, cases.scores, cases.wrong)
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
    procedures: dict[str, Callable[[np.ndarray], float]] = {
        name: partial(certified, cell, share=share) for name, share in SHARES.items()
    }
    procedures["SGR"] = lambda rows: sgr(
        scores[rows], wrong[rows], max_error=cell.max_error, level=1 - cell.confidence
    )
    procedures |= {name: partial(by_mapie, cell, method=method) for name, method in MAPIE.items()}
    return {
        name: np.array([procedure(rows) for rows in cell.positions])
        for name, procedure in procedures.items()
    }


def certified(cell: Cell, positions: np.ndarray, *, share: float) -> float:
    """The threshold that the library certifies, with this share of the cases for tuning."""
    population, split = cell.population, round(share * len(positions))
    tuning, calibration = (
        ScoredCases(
            scores=population.scores[rows],
            wrong=population.wrong[rows],
            labels=np.zeros(len(rows), dtype=int),
            ood_scores=population.scores[rows],
            acceptable=np.ones(len(rows), dtype=bool),
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


def by_mapie(cell: Cell, positions: np.ndarray, *, method: Any) -> float:
    """The threshold with the highest recall that MAPIE certifies."""
    controller = BinaryClassificationController(
        lambda values: np.stack([1 - values, values], axis=1),
        risk="precision",
        target_level=1 - cell.max_error,
        confidence_level=cell.confidence,
        best_predict_param_choice="recall",
        list_predict_params=np.linspace(0.99, 0, 100),
        fwer_method=method,
    )
    right = (~cell.population.wrong[positions]).astype(int)
    threshold = controller.calibrate(cell.population.scores[positions], right).best_predict_param
    return math.inf if threshold is None else float(threshold)


def truth(cell: Cell, thresholds: Float[np.ndarray, " sets"]) -> Truth:
    """Apply each threshold to the whole population."""
    order = np.argsort(-cell.population.scores)
    accepted = np.searchsorted(-cell.population.scores[order], -thresholds, side="right")
    errors = np.append(0, np.cumsum(cell.population.wrong[order]))[accepted]
    return Truth(accepted / len(order), errors > cell.max_error * accepted)


def table(cells: Sequence[Cell], measured: Sequence[Mapping[str, Truth]]) -> str:
    """Markdown: a row for each cell, then means over cells."""
    names = list(measured[0])
    header = ["population", "target", "confidence", "cases", *names, "above the target"]
    rows = [
        [
            cell.population.name,
            f"{cell.max_error:g}",
            f"{cell.confidence:g}",
            str(cell.positions.shape[1]),
            *(f"{truths[name].coverage.mean():.3f}" for name in names),
            " / ".join(f"{truths[name].above.mean():.3f}" for name in names),
        ]
        for cell, truths in zip(cells, measured, strict=True)
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
