"""Guarantees: how the targets hold, as objects that are passed to whoever needs one.

Another guarantee is a class with the attributes of `Guarantee`, in `GUARANTEES`.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from misgiving.deferral.bounds import Cases, Values, tolerance_rank, upper_bound
from misgiving.deferral.certificate import ROUNDING, CertifiableError, Scores, Selection
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import RankCounts, ScoredCases, loosest_certified
from misgiving.registry import Registry

PRIOR_ERRORS = 2.0  # wrong tuning cases that each class with a target has more than observed
STEPS = 1000  # in which the smallest certifiable error is searched


@runtime_checkable
class Guarantee(Protocol):
    """A way in which targets hold.

    Attributes:
        name: By which it is chosen, recorded, and described in `report/templates/guarantees`.
    """

    name: str

    def ood_rank(self, cases: int, targets: Targets) -> int | None:
        """Rank of the OOD limit among so many calibration cases, lowest first.

        An image below the limit is out-of-distribution; one exactly at it is deferred. What is
        accepted lies strictly above, where the calibration cases are, given the limit, a simple
        random sample. None: there is no such target, or there are too few cases.
        """

    def smallest_rate(
        self, wrong: Cases, cases: Cases, *, level: float, accepted: float = 1.0, parts: int = 1
    ) -> Values:
        """The smallest rate that is certified where so many cases are wrong, or are missed.

        Args:
            wrong: Wrong cases among these.
            cases: Accepted cases, or all.
            level: Of a test.
            accepted: Share of all cases that is accepted.
            parts: Classes whose wrong cases are counted apart.
        """

    def loosest_rank(self, counts: RankCounts, targets: Targets, selected: int) -> int:
        """Position of the loosest rank that meets the targets, -1 for none.

        Args:
            counts: The calibration cases at each rank.
            targets: To meet.
            selected: Position that conformal selection takes.
        """

    def smallest_error(self, counts: RankCounts, targets: Targets) -> CertifiableError | None:
        """The smallest `max_error` that these cases certify; None: none is."""

    def batch_rule(self, selection: Selection) -> Selection | None:
        """The rule that chooses the threshold of each batch; None: all have the same."""


class Confident:
    """The targets hold with a confidence for the calibration set at hand."""

    name = "confident"

    def ood_rank(self, cases: int, targets: Targets) -> int | None:
        """A tolerance limit (Wilks, 1941)."""
        rate = targets.max_ood_false_alarms or 0.0  # for which there is no rank
        return tolerance_rank(cases, rate=rate, level=targets.level) or None

    def smallest_rate(
        self, wrong: Cases, cases: Cases, *, level: float, accepted: float = 1.0, parts: int = 1
    ) -> Values:
        """An upper bound; all wrong cases are counted together."""
        del accepted, parts
        return upper_bound(wrong, cases, level=level)

    def loosest_rank(self, counts: RankCounts, targets: Targets, selected: int) -> int:
        """The loosest one that passes the tests of all targets."""
        del selected
        return loosest_certified(counts, targets)

    def smallest_error(self, counts: RankCounts, targets: Targets) -> CertifiableError | None:
        """Search for it in steps of 0.001, by halving."""
        if targets.max_error is None:
            return None
        low, high, smallest = math.floor(targets.max_error * STEPS), STEPS, None
        while high - low > 1:
            middle = (low + high) // 2
            position = loosest_certified(counts, replace(targets, max_error=middle / STEPS))
            if position < 0:
                low = middle
            else:
                high, accepted = middle, int(counts.ranks[position])
                smallest = CertifiableError(max_error=middle / STEPS, accepted=accepted)
        return smallest

    def batch_rule(self, selection: Selection) -> None:
        """None: every image has the same threshold."""
        del selection


class Average:
    """The targets hold on average over calibration sets and batches of at least 50 images."""

    name = "average"

    def ood_rank(self, cases: int, targets: Targets) -> int | None:
        """On average the share below the k-th lowest of n cases is k / (n + 1) (Vovk, 2012)."""
        rate = targets.max_ood_false_alarms or 0.0
        return math.floor(rate * (cases + 1) + ROUNDING) or None

    def smallest_rate(
        self, wrong: Cases, cases: Cases, *, level: float, accepted: float = 1.0, parts: int = 1
    ) -> Values:
        """One wrong case more than observed in each part, among one case more."""
        del level
        return np.asarray(np.add(parts, wrong) / np.add(cases, accepted))

    def loosest_rank(self, counts: RankCounts, targets: Targets, selected: int) -> int:
        """That of conformal selection."""
        del counts, targets
        return selected

    def smallest_error(self, counts: RankCounts, targets: Targets) -> None:
        """None: it is not searched, as it depends on the batch."""
        del counts, targets

    def batch_rule(self, selection: Selection) -> Selection | None:
        """Conformal selection; None where no target is a share of the accepted."""
        return selection if selection.rates else None


GUARANTEES: Registry[Guarantee] = Registry("guarantee", confident=Confident(), average=Average())
"""Those that can be named by a text."""


def fit_selection(
    tuning: ScoredCases,
    calibration: ScoredCases,
    counts: RankCounts,
    targets: Targets,
    *,
    classes: Sequence[str],
) -> Selection:
    """Choose what decides a batch, with the limits that all images must meet."""
    missable, watched = calibration.acceptable & calibration.wrong, targets.class_max_miss
    lowest, wrong = -math.inf, counts.kept & calibration.wrong
    if targets.max_silent_error is not None:
        scores = calibration.scores[missable]
        lowest = lowest_allowed(scores, counts.cases, rate=targets.max_silent_error)
    parts, labels = [], [classes.index(name) for name in watched]
    for label, rate in zip(labels, watched.values(), strict=True):
        members = calibration.labels == label
        scores = calibration.scores[members & missable]
        lowest = max(lowest, lowest_allowed(scores, int(members.sum()), rate=rate))
        parts.append(members)
    if targets.max_error is None:
        return Selection(cases=counts.above, lowest=lowest, rates=(), wrong=())
    parts.append(~np.any([*parts, np.zeros_like(wrong)], axis=0))
    return Selection(
        cases=counts.above,
        lowest=lowest,
        rates=divided_rate(targets.max_error, tuning, labels, counts.above),
        wrong=tuple(tuple(np.sort(calibration.scores[part & wrong]).tolist()) for part in parts),
    )


def lowest_allowed(wrong_scores: Scores, cases: int, *, rate: float) -> float:
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
    max_error: float, tuning: ScoredCases, labels: Sequence[int], cases: int
) -> tuple[float, ...]:
    """Divide `max_error` among the classes with these labels and the others, by the tuning set.

    Each part has a place for the one case that its test adds, and shares the others in proportion
    to its wrong tuning cases.
    """
    wrong = tuning.labels[tuning.acceptable & tuning.wrong]
    of_classes = [int((wrong == label).sum()) for label in labels]
    errors = np.array([*of_classes, len(wrong) - sum(of_classes)]) + PRIOR_ERRORS
    best_first = np.argsort(-tuning.scores, kind="stable")
    risks = tuning.error_probabilities[best_first].cumsum() / np.arange(1, len(tuning) + 1)
    accepted = float((risks <= max_error).mean())  # share of cases, roughly
    others = max(max_error * cases * accepted - len(errors), 1.0)
    places = 1 + others * errors / errors.sum()
    return tuple((max_error * places / places.sum()).tolist())
