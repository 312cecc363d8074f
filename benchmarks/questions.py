"""Check the guarantees of superclasses, of values of a column, of capacity and of costs.

    python benchmarks/questions.py PREDICTIONS [--draws 300] [--seed 0] [--jobs 1]

PREDICTIONS as in benchmarks/guarantee.py. 300 images tune, the others of a table are the population
of which calibration cases are drawn, so that true shares are exact. Prints two Markdown tables:
- *Policies*: coverage, and the share of draws that truly miss a target; on average, the mean error.
- *Worst cases*: the risk is just above the target for the best images, and rises below. Values with
  three cases, values that the score determines, ties, and `max_deferred` beside `max_error`.
"""

import argparse
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from drawing import print_table

from misgiving import Deferral
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.certify import certify_thresholds
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.fit_policy import certify_policy, fit_policy
from misgiving.deferral.guarantees import GUARANTEES
from misgiving.deferral.sets import fit_detectors
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import ScoredCases
from misgiving.predictions.record import Predictions

TUNING, SIZES, BATCH, LEVEL, TARGET = 300, (500, 1500), 2000, 0.05, 0.1
COARSE = (  # superclass of each class of CIFAR-100 (Krizhevsky, 2009)
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13),
    *(15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4),
    *(17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13),
    *(15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)
TUMOUR = (0, 0, 0, 0, 0, 0, 0, 1, 1)  # of PathMNIST's tissues
SUPERCLASSES = {
    "cifar100_resnet-20": COARSE,
    "cifar100_vgg19_bn": COARSE,
    "pathmnist_resnet50": TUMOUR,
}
BY_CLASS = ("cifar10_resnet-20", "pathmnist_resnet50")
VALUES = (2, 9, 20)  # of a column that is drawn at random, with shares of 1, 2, 3, ...


class Task(NamedTuple):
    """A policy, a table and a number of calibration cases."""

    path: Path
    name: str
    parameters: Mapping[str, Any]
    cases: int
    draws: int
    seed: int


def main() -> None:
    """Print the tables, and whether the guarantees hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        policies = print_table(pool.map(measured, tasks_of(options)))
        worst = print_table(pool.map(missed_at_worst, worst_cases(options.draws)))
    missed = [*policies["missed"].dropna(), *worst["missed"]]
    excess = (np.array(missed) - LEVEL) / math.sqrt(LEVEL * (1 - LEVEL) / options.draws)
    print(f"{(excess > 4).sum()} of {len(missed)} cells beyond four standard errors, "
          f"{(excess > 2).sum()} beyond two.")  # fmt: skip


def tasks_of(options: argparse.Namespace) -> Iterator[Task]:
    """Each policy with each table and number of cases."""
    for (stem, name, asked), size in product(policies(), SIZES):
        path = options.predictions / "logits" / f"{stem}.npz"
        yield Task(path, name, asked, size, options.draws, options.seed)


def policies() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Tables, names and parameters."""
    for stem, of_each in SUPERCLASSES.items():
        groups: dict[str, list[str]] = {}
        for at, group in enumerate(of_each):
            groups.setdefault(f"superclass {group}", []).append(str(at))
        answered = {"max_error": 0.05, "superclasses": groups}
        for guarantee in GUARANTEES:
            yield stem, "superclass", {**answered, "answer": "superclass", "guarantee": guarantee}
        yield stem, "finest", {**answered, "answer": "finest"}
    for stem, (name, asked) in product(BY_CLASS, of_values()):
        yield stem, name, asked


def of_values() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and parameters of policies without superclasses."""
    for name, way in (("together", True), ("alone", False)):
        asked = {"for_each": "predicted_class", "simultaneous": way}
        yield f"each class {name}", {"max_error": 0.05, **asked}
    for values, guarantee in product(VALUES, GUARANTEES):
        asked = {"for_each": f"values{values}", "guarantee": guarantee}
        yield f"{values} values", {"max_error": 0.05, **asked}
    yield "capacity", {"max_deferred": 0.2}
    yield "cost", {"costs": {"3": 10.0}, "rule": "costs", "review_cost": 0.3}


def measured(task: Task) -> dict[str, Any]:
    """Coverage and misses over draws of the calibration cases, with one tuning set."""
    warnings.simplefilter("ignore")
    random = np.random.default_rng([task.seed, task.cases, *task.name.encode()])
    images = Images(task.path, random)
    tuning, population = images(np.arange(TUNING)), images(np.arange(TUNING, images.count))
    deferral = Deferral(max_ood_false_alarms=None, **task.parameters)
    parameters = deferral.check_parameters(tuning.classes)
    detectors, _ = fit_detectors(tuning, tuning.in_set("train"))
    own = {"ood_detector": None, "looks": (), "seed": deferral.seed}
    policy, tuned = fit_policy(tuning, detectors, None, parameters, **own)
    scored, averages = policy.score(population.outputs), deferral.guarantee == "average"
    coverages, misses, errors = [], [], []
    for _ in range(task.draws):
        drawn = random.integers(TUNING, images.count, size=task.cases)
        # what is fitted stays
        deferral.policy_ = certify_policy(policy, tuned, images(drawn), parameters[2])
        rows = np.arange(len(population))
        if averages:
            rows = random.integers(len(population), size=BATCH)
        batch = replace(scored, **{name: x[rows] for name, x in scored.arrays.items()})
        columns = {name: np.array(x)[rows].tolist() for name, x in population.metadata.items()}
        decided = deferral.policy_.decide(batch, columns=columns)
        coverages.append((decided.decisions == "accept").mean())
        errors.append(errors_of(deferral, decided, population.labels[rows]))
        misses.append(missed_targets(deferral, decided, population.labels[rows]))
    return {
        "predictions": task.path.stem,
        "policy": task.name + (", average" if averages else ""),
        "cases": task.cases,
        "coverage": float(np.mean(coverages)),
        "missed": math.nan if averages else highest_mean(misses),
        "mean error": highest_mean(errors) if averages else math.nan,
    }


def highest_mean(draws: Sequence[Mapping[str, float]]) -> float:
    """The highest of the means over draws, of which a missing one is 0."""
    return float(pd.DataFrame(draws).astype(float).fillna(0.0).mean().max())


class Images:
    """Rows of a table, in a random order, with a column of values drawn at random."""

    def __init__(self, path: Path, random: np.random.Generator) -> None:
        arrays = np.load(path)
        order = random.permutation(len(arrays["label"]))
        self.count, self.logits = len(order), arrays["logits"].astype(float)[order]
        self.labels = arrays["label"].astype(int)[order]
        shares = {n: np.arange(1, n + 1) / (n * (n + 1) / 2) for n in VALUES}
        self.values = {
            f"values{n}": random.choice(n, size=len(order), p=share).astype(str)
            for n, share in shares.items()
        }

    def __call__(self, rows: np.ndarray) -> Predictions:
        return Predictions.of(
            {
                "logits": self.logits[rows],
                "label": self.labels[rows].astype(str),
                "classes": list(map(str, range(self.logits.shape[1]))),
                "id": [f"{row}-{at}" for at, row in enumerate(rows)],
                **{name: column[rows] for name, column in self.values.items()},
            }
        )


def errors_of(deferral: Deferral, decided: Decisions, labels: np.ndarray) -> dict[str, float]:
    """The share of wrong answers among the accepted of each value of which any is."""
    accepted, wrong = decided.decisions == "accept", decided.wrong(labels)
    names = enumerate(deferral.certificate_.parts)
    groups = {name: accepted & (decided.part == at) for at, name in names}
    return {name: float(wrong[group].mean()) for name, group in groups.items() if group.any()}


def missed_targets(deferral: Deferral, decided: Decisions, labels: np.ndarray) -> dict[str, bool]:
    """Targets that are missed; for all values together, or for each."""
    certificate, targets = deferral.certificate_, deferral.certificate_.targets
    limit = (targets.max_error if targets.limits_errors else certificate.error_bound) or 1.0
    errors = errors_of(deferral, decided, labels)
    missed = {name: error > limit for name, error in errors.items()}
    missed = {"all": any(missed.values())} if targets.simultaneous else missed
    accepted, another = decided.decisions == "accept", decided.predicted != labels
    if targets.max_deferred is not None:
        missed["deferred"] = bool((~accepted).mean() > targets.max_deferred)
    if certificate.finer is not None and decided.as_class.any():
        missed["all"] |= bool(another[decided.as_class].mean() > limit)
    if (mean_cost := certificate.mean_cost) is not None:
        costs = deferral.policy_.rule.costs_of(decided.classes)[labels] * another
        mean = np.where(accepted, costs, targets.review_cost).mean()
        missed["cost"] = not mean_cost.lower <= mean <= mean_cost.upper
    return missed


def worst_cases(draws: int) -> list[tuple[str, int, int]]:
    """Names of the cases, their numbers and draws."""
    names = ("nine values, one of three cases", "values by the score", "ties", "with capacity")
    return [(name, cases, draws) for name in names for cases in (150, 400)]


def missed_at_worst(task: tuple[str, int, int]) -> dict[str, Any]:
    """The share of draws that accept anything where no threshold meets the target."""
    name, cases, draws = task
    random, missed = np.random.default_rng([cases, *name.encode()]), 0
    for _ in range(draws):
        scores = random.random(cases)
        scores = np.ceil(scores * 8) / 8 if name == "ties" else scores
        wrong = random.random(cases) < TARGET + 1e-3 + 0.3 * np.maximum(0.5 - scores, 0)
        values = random.integers(8, size=cases)
        values[:3] = 8
        if name == "values by the score":
            values = (scores * 4).astype(int)
        targets = Targets(
            max_error=TARGET,
            max_ood_false_alarms=None,
            for_each=None if name == "with capacity" else "value",
            max_deferred=0.5 if name == "with capacity" else None,
        )
        labels = np.zeros(cases, dtype=int)
        scored = ScoredCases(
            scores=scores,
            ood_scores=random.random(cases),
            error_probabilities=1 - scores,
            predicted=labels + wrong,
            labels=labels,
            acceptable=np.ones(cases, dtype=bool),
        )
        blank = Certificate(
            targets=targets, guarantee="confident", classes=("a", "b"), tuning_cases=0
        )
        sites = [] if name == "with capacity" else [f"v{value}" for value in values]
        certificate = certify_thresholds(blank, None, scored, GUARANTEES["confident"], sites)
        missed += certificate.accepted > 0
    return {"worst case": name, "cases": cases, "missed": missed / draws}


if __name__ == "__main__":
    main()
