"""Accepted answers that are wrong, by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from misgiving.deferral.bounds import smallest_rate, upper_bound
from misgiving.deferral.settings import Targets
from misgiving.deferral.thresholds import RankCounts, ScoredCases


@dataclass(frozen=True, kw_only=True)
class ClassOutcome:
    """Observed misses of a class with a target.

    Attributes:
        name: The class.
        rate: The target.
        cases: Calibration cases of the class.
        missed: How many are accepted as another class, without the OOD limit; at the strictest
            threshold where none meets all targets.
        smallest_certifiable_rate: Smallest target that some threshold would meet.
    """

    name: str
    rate: float
    cases: int
    missed: int
    smallest_certifiable_rate: float


@dataclass(frozen=True, kw_only=True)
class ClassErrors:
    """Accepted calibration cases with a wrong answer, by the true and by the predicted class.

    The bounds are for each class by itself, and allow for the number of ranks that were tested.
    They are approximate, as threshold and OOD limit come from the same cases.

    Attributes:
        name: The class.
        cases: Calibration cases of the class.
        missed: How many of these are accepted as another class.
        missed_bound: Upper bound on the share of missed.
        predicted: Accepted cases whose predicted class this is.
        wrong: How many of these are of another class.
        wrong_bound: Upper bound on the share of wrong.
    """

    name: str
    cases: int
    missed: int
    missed_bound: float
    predicted: int
    wrong: int
    wrong_bound: float


def class_outcomes(targets: Targets, counts: RankCounts, position: int) -> tuple[ClassOutcome, ...]:
    """Misses of each class with a target, at this position of the ranks; -1: at the strictest."""
    usable = ~np.isnan(counts.thresholds)
    fewest = [int(missed[usable][:1].sum()) for missed in counts.missed]
    smallest = partial(smallest_rate, guarantee=targets.guarantee, level=targets.level_of_misses)
    return tuple(
        ClassOutcome(
            name=name,
            rate=rate,
            cases=cases,
            missed=int(missed[position]) if position >= 0 else least,
            smallest_certifiable_rate=float(smallest(least, cases)),
        )
        for (name, rate), missed, least, cases in zip(
            targets.class_max_miss.items(), counts.missed, fewest, counts.class_cases, strict=True
        )
    )


def class_errors(
    calibration: ScoredCases,
    counts: RankCounts,
    position: int,
    *,
    classes: Sequence[str],
    level: float,
) -> tuple[ClassErrors, ...]:
    """Accepted answers of each class, at this position of the ranks; `level` of the bounds."""
    accepted = counts.kept & (calibration.scores >= counts.thresholds[position])
    each, errors = level / len(counts.ranks), []
    for label, name in enumerate(classes):
        of_class = calibration.labels == label
        answers = accepted & (calibration.predicted == label)
        cases, missed = int(of_class.sum()), int((accepted & of_class & calibration.wrong).sum())
        predicted, wrong = int(answers.sum()), int((answers & ~of_class).sum())
        if cases or predicted:
            errors.append(
                ClassErrors(
                    name=name,
                    cases=cases,
                    missed=missed,
                    missed_bound=float(upper_bound(missed, cases, level=each)),
                    predicted=predicted,
                    wrong=wrong,
                    wrong_bound=float(upper_bound(wrong, predicted, level=each)),
                )
            )
    return tuple(sorted(errors, key=lambda each: (each.cases > 0, each.missed_bound), reverse=True))
