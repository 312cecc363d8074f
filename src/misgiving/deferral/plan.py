"""What is fixed before the calibration cases are looked at, and how they then decide.

Calibration cases may have leading axes of independent draws: the benchmark draws thousands of
calibration sets and certifies them with this code.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.cases import Cases, Scores, Targets
from misgiving.deferral.certification import allowed, certified, loosest
from misgiving.deferral.multiple_testing import (
    Thresholds,
    accepted_by_candidate,
    candidate_thresholds,
    starting_levels,
)
from misgiving.deferral.ood_limit import limit_of, rank_of_limit, refuse_ties
from misgiving.errors import DataError, UsageError


class Counts(NamedTuple):
    """Calibration cases at each candidate, strictest first.

    Attributes:
        limit: The OOD limit; None without the rule.
        kept: Cases above the limit: the only ones that certify the error.
        accepted: Kept cases that are accepted.
        wrong: How many of these are wrong.
        missed: For each class promise the class's cases that are accepted as another class, by the
            score alone.
        class_cases: For each class promise the cases of the class.
    """

    limit: Float[np.ndarray, "*draws"] | np.floating | None
    kept: Bool[np.ndarray, "*draws n"]
    accepted: Int[np.ndarray, "*draws candidates"]
    wrong: Int[np.ndarray, "*draws candidates"]
    missed: list[Int[np.ndarray, "*draws candidates"]]
    class_cases: list[Int[np.ndarray, "*draws"] | np.integer]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Candidates and what the tune part says of them.

    Attributes:
        targets: What is to be certified.
        classes: Names of the classes, in the order of the labels.
        cases: Number of calibration cases to come.
        thresholds: The candidates, strictest first.
        rank: Which of the lowest calibration confidences is the OOD limit; None: no rule.
        accepted: Cases of the tune part that each candidate accepts.
        wrong: How many of these are wrong.
    """

    targets: Targets
    classes: tuple[str, ...]
    cases: int
    thresholds: Thresholds
    rank: int | None
    accepted: Int[np.ndarray, " candidates"]
    wrong: Int[np.ndarray, " candidates"]

    @classmethod
    def of(cls, tune: Cases, targets: Targets, *, classes: Sequence[str], cases: int) -> "Plan":
        """The plan for so many calibration cases, from the tune part."""
        _refuse_unknown(targets, classes)
        rank = _rank(tune, targets, cases)
        kept = _kept(tune.ood_scores, _same_rank(rank, cases, len(tune)), tune.scores)[1]
        thresholds = candidate_thresholds(tune.scores)
        return cls(
            targets=targets,
            classes=tuple(classes),
            cases=cases,
            thresholds=thresholds,
            rank=rank,
            accepted=accepted_by_candidate(tune.scores, kept, thresholds),
            wrong=accepted_by_candidate(tune.scores, kept & tune.wrong, thresholds),
        )

    def count(self, calibration: Cases) -> Counts:
        """Count the calibration cases at each candidate."""
        limit, kept = _kept(calibration.ood_scores, self.rank, calibration.scores)
        of_class = [
            calibration.labels == self.classes.index(name) for name in self.targets.class_max_miss
        ]
        return Counts(
            limit=limit,
            kept=kept,
            accepted=self._reaching(calibration, kept),
            wrong=self._reaching(calibration, kept & calibration.wrong),
            missed=[self._reaching(calibration, chosen & calibration.wrong) for chosen in of_class],
            class_cases=[chosen.sum(axis=-1) for chosen in of_class],
        )

    def position(
        self, counts: Counts, *, max_error: float | None = None
    ) -> Int[np.ndarray, "*draws"]:
        """The loosest candidate that keeps the targets, -1 for none.

        Args:
            counts: The calibration cases at each candidate.
            max_error: Another error than the promised one.
        """
        target = self.targets.max_error if max_error is None else max_error
        chosen = certified(
            counts.accepted, counts.wrong, max_error=target, levels=self.levels(target)
        )
        rates = self.targets.class_max_miss.values()
        for rate, missed, cases in zip(rates, counts.missed, counts.class_cases, strict=True):
            chosen = chosen & allowed(missed, cases, rate=rate, level=self.targets.level)
        return loosest(chosen)

    def levels(self, max_error: float) -> Float[np.ndarray, " candidates"]:
        """The level that each candidate starts with."""
        return starting_levels(
            self.accepted,
            self.wrong,
            cases=self.cases - (self.rank or 0),
            max_error=max_error,
            level=self.targets.level,
        )

    def _reaching(
        self, cases: Cases, counted: Bool[np.ndarray, "*draws n"]
    ) -> Int[np.ndarray, "*draws candidates"]:
        return accepted_by_candidate(cases.scores, counted, self.thresholds)


def refuse_unsupported(plan: Plan, calibration: Cases) -> None:
    """Refuse what these calibration cases could not show even at their best."""
    names = {name: plan.classes.index(name) for name in plan.targets.class_max_miss}
    for name, label in names.items():
        _refuse_few(name, int((calibration.labels == label).sum()), plan.targets)
    if plan.rank is not None:
        if calibration.ood_scores is None:
            raise UsageError("max_ood_false_alarms needs ood_scores in both parts; give a detector")
        limit = limit_of(calibration.ood_scores, plan.rank)
        refuse_ties(calibration.ood_scores, float(limit))


def _refuse_few(name: str, cases: int, targets: Targets) -> None:
    if not cases:
        raise DataError(
            f"class_max_miss of {name}: it has no calibration cases; add some, or promise nothing"
        )
    smallest = math.ceil((1 - targets.level ** (1 / cases)) * 1000) / 1000
    if 1 - targets.level ** (1 / cases) > targets.class_max_miss[name]:
        raise DataError(
            f"{cases} calibration cases of {name}: the smallest rate that can be promised is "
            f"{smallest:g}; ask for more, or add cases"
        )


def _refuse_unknown(targets: Targets, classes: Sequence[str]) -> None:
    named: Iterable[str] = [*targets.class_max_miss, *(targets.prevalence or {})]
    for name in named:
        if name not in classes:
            raise UsageError(f"unknown class {name!r}; choose from {', '.join(classes)}")


def _rank(tune: Cases, targets: Targets, cases: int) -> int | None:
    if targets.max_ood_false_alarms is None:
        return None
    if tune.ood_scores is None:
        raise UsageError("max_ood_false_alarms needs ood_scores in both parts; give a detector")
    return rank_of_limit(cases, rate=targets.max_ood_false_alarms, level=targets.level)


def _same_rank(rank: int | None, cases: int, others: int) -> int | None:
    """The rank that leaves the same share of other cases below it."""
    return None if rank is None else max(1, round(rank / cases * others))


def _kept(
    ood_scores: Scores | None, rank: int | None, scores: Scores
) -> tuple[Float[np.ndarray, "*draws"] | np.floating | None, Bool[np.ndarray, "*draws n"]]:
    """The OOD limit, and which cases lie above it: all of them without a rule."""
    if rank is None or ood_scores is None:
        return None, np.ones(scores.shape, dtype=bool)
    limit = limit_of(ood_scores, rank)
    return limit, ood_scores > np.asarray(limit)[..., None]
