"""Guarantees: how the targets hold, as objects that are passed to whoever needs one.

Another one is a further class in `GUARANTEES`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from misgiving.arrays import Values
from misgiving.deferral.bounds import Bounds, Cases, tolerance_rank, upper_bound
from misgiving.deferral.outcomes import ROUNDING, Selection
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import (
    FEWEST_CASES,
    RankCounts,
    ScoredCases,
    limited_parts,
    loosest_certified,
)
from misgiving.errors import Parameter, UsageError
from misgiving.registry import Registry

PRIOR_ERRORS = 2.0  # wrong tuning cases that each class with a target has more than observed


class Guarantee(ABC):
    """A way in which targets hold.

    Attributes:
        name: By which it is chosen, recorded, and described in `deferral/templates/guarantees`.
        by_batch: True if each batch has a threshold of its own, by conformal selection.
    """

    name: str
    by_batch: bool = False

    def ood_rank(self, cases: int, targets: Targets) -> int | None:
        """Rank of the OOD limit among so many calibration cases, lowest first.

        A case below the limit is out-of-distribution; one exactly at it is deferred. What is
        accepted lies strictly above, where the calibration cases are, given the limit, a simple
        random sample. None: there is no such target, or there are too few cases.
        """
        rate = targets.max_ood_false_alarms
        return None if rate is None else self.rank_below(cases, rate, level=targets.level) or None

    def most_deferred(self, cases: int, targets: Targets) -> int | None:
        """Number of so many cases that may be deferred; None without the target.

        One less than the rank, as a case with the score of the rank may be one of many.
        """
        rate = targets.max_deferred
        if rate is None:
            return None
        return max(0, self.rank_below(cases, rate, level=targets.level) - 1)

    @abstractmethod
    def rank_below(self, cases: int, rate: float, *, level: float) -> int:
        """Highest rank of so many cases, lowest first, with at most `rate` of all cases below it.

        0: the cases are too few.
        """

    def check_looks(self, looks: Sequence[int]) -> None:
        """Check the planned numbers of cases of several calibrations.

        Raises:
            UsageError: They do not grow, or the guarantee is for one calibration alone.
        """
        if looks and self.by_batch:
            raise UsageError(
                *(Parameter("looks"), " cannot be planned for the average guarantee: a mean does "),
                "not hold if one stops as soon as enough is accepted; calibrate once",
            )
        if sorted({*looks}) != [*looks] or min(looks, default=FEWEST_CASES) < FEWEST_CASES:
            raise UsageError(
                Parameter("looks"), f" must be growing numbers of at least {FEWEST_CASES} cases"
            )

    def check_class_targets(self, targets: Targets) -> None:
        """Check that there is a proof for `max_error` together with the targets of classes.

        Raises:
            UsageError: On average, there is none for a superclass where classes are answered:
                which of its wrong answers are missed depends on the cases.
        """
        of_superclass = targets.class_max_miss.keys() & targets.superclasses.keys()
        if self.by_batch and targets.answer == "finest":
            raise UsageError(
                *(Parameter("answer", "finest"), " needs the confident guarantee: the limit of "),
                "superclasses, chosen on the same cases, tells which of them are wrong",
            )
        if self.by_batch and of_superclass and targets.answer == "class" and targets.max_error:
            raise UsageError(
                *(Parameter("class_max_miss"), f" of the superclass {min(of_superclass)!r} needs "),
                *(Parameter("answer", "superclass"), " or the confident guarantee"),
            )

    @abstractmethod
    def smallest_rate(
        self, wrong: Cases, cases: Cases, *, level: float, accepted: float = 1.0, parts: int = 1
    ) -> Bounds:
        """The smallest rate that is certified where so many cases are wrong, or are missed.

        Args:
            wrong: Wrong cases among these.
            cases: Accepted cases, or all.
            level: Of a test.
            accepted: Share of all cases that is accepted.
            parts: Classes whose wrong cases are counted apart.
        """

    @abstractmethod
    def loosest_ranks(
        self, counts: Sequence[RankCounts], targets: Targets, selected: Sequence[int]
    ) -> Sequence[int]:
        """For each value, the loosest rank that meets the targets, or the selected one; -1: none.

        All values together where the targets are simultaneous, or each by itself.
        """


class Confident(Guarantee):
    """The targets hold with a confidence for the calibration set at hand.

    The OOD limit is a tolerance limit (Wilks, 1941). All wrong cases are counted together.
    """

    name = "confident"

    def rank_below(self, cases: int, rate: float, *, level: float) -> int:
        return tolerance_rank(cases, rate=rate, level=level)

    def smallest_rate(
        self, wrong: Cases, cases: Cases, *, level: float, accepted: float = 1.0, parts: int = 1
    ) -> Bounds:
        del accepted, parts
        return upper_bound(wrong, cases, level=level)

    def loosest_ranks(
        self, counts: Sequence[RankCounts], targets: Targets, selected: Sequence[int]
    ) -> Sequence[int]:
        del selected
        if targets.simultaneous:
            return loosest_certified(counts, targets)
        return [loosest_certified([each], targets)[0] for each in counts]


class Average(Guarantee):
    """The targets hold on average over calibration sets and batches of at least 50 cases.

    The share of cases below the k-th lowest of n cases is k / (n + 1) on average (Vovk, 2012).
    """

    name, by_batch = "average", True

    def rank_below(self, cases: int, rate: float, *, level: float) -> int:
        del level
        return math.floor(rate * (cases + 1) + ROUNDING)

    def smallest_rate(
        self, wrong: Cases, cases: Cases, *, level: float, accepted: float = 1.0, parts: int = 1
    ) -> Bounds:
        del level
        return np.asarray(np.add(parts, wrong) / np.add(cases, accepted))

    def loosest_ranks(
        self, counts: Sequence[RankCounts], targets: Targets, selected: Sequence[int]
    ) -> Sequence[int]:
        del counts, targets
        return selected


GUARANTEES: Registry[Guarantee] = Registry(
    "guarantee", **{each.name: each for each in (Confident(), Average())}
)


def fit_selection(
    tuning: ScoredCases | None,
    calibration: ScoredCases,
    counts: RankCounts,
    targets: Targets,
    *,
    classes: Sequence[str],
) -> Selection:
    """Choose what decides a batch, with the limits that all cases must meet.

    The tuning set divides `max_error` among classes with targets.
    """
    wrong = counts.kept & calibration.wrong
    limited = limited_parts(calibration, targets, classes)
    allowed = [
        lowest_allowed(calibration.scores[missed], int(part.sum()), rate=rate)
        for rate, part, missed in limited
    ]
    lowest = max(allowed, default=-math.inf)
    if targets.max_error is None:
        return Selection(cases=counts.above, lowest=lowest, rates=(), wrong=())
    labels = [targets.positions(name, classes) for name in targets.class_max_miss]
    members = [part for _, part, _ in limited[: len(labels)]]
    parts = [*members, ~np.any([*members, np.zeros_like(wrong)], axis=0)]
    return Selection(
        cases=counts.above,
        lowest=lowest,
        rates=divided_rate(targets.max_error, tuning, labels, counts.above),
        wrong=tuple(tuple(np.sort(calibration.scores[part & wrong]).tolist()) for part in parts),
    )


def lowest_allowed(wrong_scores: Values, cases: int, *, rate: float) -> float:
    """The lowest score to accept so that a new case is wrong and accepted with at most this rate.

    If c cases are wrong above the limit, the probability is at most (1 + c) / (cases + 1), on
    average (Angelopoulos et al., 2024). It is infinite where the rate is too low for the cases.

    >>> lowest_allowed(np.array([0.1, 0.7]), 19, rate=0.05) > 0.7
    True
    """
    most = math.floor(rate * (cases + 1) * (1 + ROUNDING)) - 1
    if most < 0:
        return math.inf
    if most >= len(wrong_scores):
        return -math.inf
    excluded = np.sort(wrong_scores)[::-1][most]
    return float(np.nextafter(excluded, math.inf))


def divided_rate(
    max_error: float, tuning: ScoredCases | None, labels: Sequence[Sequence[int]], cases: int
) -> tuple[float, ...]:
    """Divide `max_error` among the classes with these labels and the others, by the tuning set.

    Each part has a place for the one case that its test adds, and shares the others in proportion
    to its wrong tuning cases; without these there is one part.
    """
    if tuning is None:
        return (max_error,)
    wrong = tuning.labels[tuning.acceptable & tuning.wrong]
    of_classes = [int(np.isin(wrong, positions).sum()) for positions in labels]
    errors = np.array([*of_classes, max(0, len(wrong) - sum(of_classes))]) + PRIOR_ERRORS
    best_first = np.argsort(-tuning.scores, kind="stable")
    risks = tuning.error_probabilities[best_first].cumsum() / np.arange(1, len(tuning) + 1)
    accepted = float((risks <= max_error).mean())  # share of cases, roughly
    others = max(max_error * cases * accepted - len(errors), 1.0)
    places = 1 + others * errors / errors.sum()
    return tuple((max_error * places / places.sum()).tolist())
