"""The certificate of a policy: thresholds, what they certify, and what was observed.

Nothing here chooses a threshold; `guarantees` certifies them.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module

import numpy as np
from jaxtyping import Bool, Float

from misgiving.arrays import Counts, Mask, Values
from misgiving.deferral.bounds import (
    BinomialInterval,
    compare_distributions,
    conformal_p_values,
    two_sided_interval,
    upper_bound,
)
from misgiving.deferral.outcomes import (
    ROUNDING,
    Capacity,
    CertifiableError,
    ClassErrors,
    ClassOutcome,
    Coarse,
    MeanCost,
    OperatingPoint,
    Pool,
    Selection,
    Threshold,
)
from misgiving.deferral.targets import Targets

MIN_BATCH = 50  # cases; an empty batch counts as without error, so that small ones promise little
MOST_RANKS = 100
SELECTION_ERRORS = 2  # wrong cases more than the observed ones, on which the threshold was chosen
MIN_TUNING_CASES = 50  # from which on error probabilities of single cases are shown
MANY_RIGHT = 200  # cases, of which a model that has not seen them hardly has all right
MIN_COMPARED = 20  # accepted calibration cases, from which on these are compared with the errors
DEVIATIONS_SHOWN = 1.96  # by which they may differ
MOST_LIMITS = 5  # suggested targets of classes
FEWEST_IMAGES = 20  # that are compared with the calibration cases, or whose errors are estimated
DIFFERENT = 0.02  # probability that equal distributions are found to differ


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Certified thresholds, and what was observed on the calibration set.

    By the defaults it accepts nothing, as before there are calibration cases.

    Attributes:
        targets: The error rates that were asked for.
        guarantee: Name of the guarantee under which they hold.
        classes: Names of the classes, in the order of the labels.
        cases: Number of calibration cases.
        tuning_cases: Number of cases to which the probabilities were fitted.
        accept_threshold: Lowest accepted score; inf: no threshold meets all targets. Where each
            batch has its own, this is that of the calibration cases.
        selection: Chooses the threshold of each batch; None: all have `accept_threshold`.
        ood_threshold: Limit below which a case is out-of-distribution; None: no OOD rule.
        ood_rank: Rank of the limit among `ood_scores`, lowest first; None: no OOD rule.
        ood_scores: OOD scores of the calibration cases, or of the cases of the pool, sorted.
        accepted: Calibration cases that are accepted.
        wrong: How many of these are wrong.
        accepted_on_average: Calibration cases that the average guarantee would accept.
        capacity: What `max_deferred` allows; None without this target.
        mean_cost: With a `review_cost`, that of a case; else None.
        class_outcomes: One for each class with a target.
        class_errors: One for each class that has cases or is predicted, in the order of the bounds
            on missed cases, those without cases last; none where nothing is accepted.
        superclass_errors: The same for each superclass, if there are any.
        smallest_certifiable: Smallest certifiable error where the target is not met; None: none is.
        thresholds: Thresholds that were tested, strictest first.
        scores: Acceptance scores of the calibration cases, highest first.
        errors: For each of these scores, True where the answer is wrong.
        kept: For each, True where the case is acceptable and above the OOD limit: else it is never
            accepted.
        error_probabilities: Of each.
        by_value: The certificate of each value of `for_each`, in the order of the cases above, of
            which this one has them all. None without `for_each`.
        finer: Of the answers that are a class, where either this or a superclass is answered.
        coarse: What was observed of the answers that are a superclass alone.
        accepted_with_one: Calibration cases that one threshold for all values would accept.
        accepted_otherwise: Those that would be accepted if all values were certified together, or
            each alone, whichever they are not.
    """

    targets: Targets
    guarantee: str
    classes: tuple[str, ...]
    cases: int = 0
    tuning_cases: int
    accept_threshold: Threshold = math.inf
    selection: Selection | None = None
    ood_threshold: float | None = None
    ood_rank: int | None = None
    ood_scores: tuple[float, ...] = field(default=(), repr=False)
    accepted: int = 0
    wrong: int = 0
    accepted_on_average: int = 0
    capacity: Capacity | None = None
    mean_cost: MeanCost | None = None
    class_outcomes: tuple[ClassOutcome, ...] = ()
    class_errors: tuple[ClassErrors, ...] = ()
    superclass_errors: tuple[ClassErrors, ...] = ()
    smallest_certifiable: CertifiableError | None = None
    thresholds: tuple[Threshold, ...] = field(default=(), repr=False)
    scores: tuple[float, ...] = field(default=(), repr=False)
    errors: tuple[bool, ...] = field(default=(), repr=False)
    kept: tuple[bool, ...] = field(default=(), repr=False)
    error_probabilities: tuple[float, ...] = field(default=(), repr=False)
    by_value: "Mapping[str, Certificate]" = field(default_factory=dict)
    finer: "Certificate | None" = None
    coarse: Coarse | None = None
    accepted_with_one: int = 0
    accepted_otherwise: int = 0
    pool: Pool | None = None
    looks: tuple[int, ...] = ()

    def __str__(self) -> str:
        # found by name, as what decides needs no words
        sentences = import_module("misgiving.deferral.sentences")
        return "\n".join(sentences.sentences_in_brief(self))

    @property
    def is_worse_than_chance(self) -> bool:
        """True where fewer calibration cases are right than a guess among the answers would be."""
        return self.pool is None and sum(self.errors) > self.cases * (1 - 1 / len(self.answers))

    @property
    def is_suspicious(self) -> bool:
        """True where so many calibration cases are accepted, and right, as of cases trained on."""
        all_right = self.pool is None and self.accepted == self.cases and not any(self.errors)
        return all_right and self.cases >= MANY_RIGHT

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the superclasses where these are answered, or else of the classes."""
        return self.targets.answers(self.classes)

    @property
    def images(self) -> Pool:
        """Cases to which shares of all refer: those of the pool, or the calibration cases."""
        return self.pool or Pool(limit=-math.inf, scores=self.scores, kept=self.kept)

    @property
    def parts(self) -> "Mapping[str, Certificate]":
        """The certificate of each value; without `for_each`, of all cases."""
        return self.by_value or {"": self}

    @cached_property
    def accepted_cases(self) -> Mask:
        """Calibration cases that are accepted, marked."""
        marks = [
            np.array(each.kept, dtype=bool) & (np.array(each.scores) >= each.accept_threshold)
            for each in self.parts.values()
        ]
        return np.concatenate(marks)

    @property
    def accepted_images(self) -> int:
        """Number of these cases that are accepted."""
        if self.pool is None:
            return int(self.accepted_cases.sum())
        scores, kept = np.array(self.pool.scores), np.array(self.pool.kept, dtype=bool)
        return int((kept & (scores >= self.accept_threshold)).sum())

    @property
    def failing_classes(self) -> list[ClassErrors]:
        """Classes that are often missed or often wrong, those with the most errors first."""
        failing = (x for x in self.class_errors if x.is_often_missed or x.is_often_wrong)
        return sorted(failing, key=lambda each: max(each.missed, each.wrong), reverse=True)

    @property
    def unlimited_superclasses(self) -> list[ClassErrors]:
        """Superclasses without a target, those of which the largest share is missed first."""
        names = self.targets.class_max_miss
        errors = (each for each in self.superclass_errors if each.cases and each.name not in names)
        return sorted(errors, key=lambda each: each.missed / each.cases, reverse=True)

    @property
    def coverage_interval(self) -> BinomialInterval:
        """Two-sided interval of the accepted share of cases, for the threshold as it is."""
        if not self.accepted:
            return BinomialInterval(0.0, 0.0)
        images = len(self.images.scores)
        return two_sided_interval(self.accepted_images, images, level=self.level)

    @property
    def level(self) -> float:
        """Probability that a target is missed; of one of several looks, its part of this."""
        return self.targets.level * (self.cases / sum(self.looks) if self.looks else 1.0)

    @property
    def expected_error(self) -> float | None:
        """Estimated share of wrong answers among the accepted; None where none is accepted.

        With two wrong cases more than were observed, where the threshold was chosen by the errors.
        """
        more = SELECTION_ERRORS if self.targets.limits_errors else 0
        wrong, accepted = self.wrong + more, self.accepted + more
        return wrong / accepted if self.accepted else None

    @property
    def error_bound(self) -> float | None:
        """Upper bound on the error at `accept_threshold`, together with all other thresholds.

        For this one alone where `max_deferred` set it, as no label chose it.
        """
        if not self.targets.limits_errors and self.accepted:
            return float(upper_bound(self.wrong, self.accepted, level=self.level))
        points = (x for x in self.operating_points if x.threshold == self.accept_threshold)
        return next((point.bound for point in points), None)

    def share_reaching(self, score: float) -> float:
        """Share of the cases of the pool, or of the calibration cases, that reach this score."""
        return float(1 - np.searchsorted(self._sorted_scores, score) / len(self._sorted_scores))

    @cached_property
    def _sorted_scores(self) -> Values:
        return np.sort(self.images.scores)

    @property
    def highest_error(self) -> float:
        """Error among the accepted that is not exceeded with confidence; 1 if none is accepted."""
        if self.by_value:
            errors = (x.highest_error for x in self.by_value.values() if x.accepted)
            return max(errors, default=1.0)
        bound, target = self.error_bound, self.targets.max_error
        if bound is None:
            return 1.0
        return bound if target is None or self.selection is not None else target

    def correction(self, cases: Mask, mean: float, *, more: int = 0) -> tuple[float, float]:
        """Mean difference between errors and error probabilities, and its standard error.

        Args:
            cases: Calibration cases that are compared, marked.
            mean: Mean error probability of cases without labels.
            more: So many cases more are wrong than were observed.
        """
        residuals = (np.array(self.errors) - np.array(self.error_probabilities))[cases]
        residuals = np.append(residuals, [1 - mean] * more)
        # one right and one wrong case more: that none was wrong does not mean that none can be
        widened = np.concatenate([residuals, [1 - mean, -mean]])
        return float(residuals.mean()), float(widened.std(ddof=1) / np.sqrt(len(residuals)))

    @cached_property
    def shows_errors(self) -> bool:
        """True where the error probability of a single case can be shown.

        There are enough tuning cases, and the mean of the accepted calibration cases agrees with
        their errors: it lies in the 95 % interval of these, which reaches up to the certified one.
        """
        accepted = self.accepted_cases
        if self.tuning_cases < MIN_TUNING_CASES or accepted.sum() < MIN_COMPARED:
            return self.tuning_cases >= MIN_TUNING_CASES
        mean = float(np.array(self.error_probabilities)[accepted].mean())
        correction, spread = self.correction(accepted, mean, more=SELECTION_ERRORS)
        lower, upper = (mean + correction + side * DEVIATIONS_SHOWN * spread for side in (-1, 1))
        return bool(lower <= mean <= max(upper, self.highest_error))

    @property
    def operating_points(self) -> list[OperatingPoint]:
        """Every tested threshold, with bounds that hold together, with the same confidence."""
        scores, thresholds = np.array(self.scores), np.array(self.thresholds)
        kept, wrong = np.array(self.kept, dtype=bool), np.array(self.errors, dtype=bool)
        accepted = number_reaching(scores[kept], thresholds)
        of_images = np.array(self.images.scores)[np.array(self.images.kept, dtype=bool)]
        coverage = number_reaching(of_images, thresholds) / len(self.images.scores)
        mistaken = number_reaching(scores[kept & wrong], thresholds)
        each = self.level / self.num_ranks  # Bonferroni
        bounds = upper_bound(mistaken, accepted, level=each)
        columns = (x.tolist() for x in (thresholds, accepted, mistaken, coverage, bounds))
        return [
            OperatingPoint(threshold, n, k, share, k / n if n else None, bound)
            for threshold, n, k, share, bound in zip(*columns, strict=True)
        ]

    @property
    def num_ranks(self) -> int:
        """Number of tested ranks, also of those without a threshold because of ties."""
        return max(1, len(ranks_to_test(sum(self.kept))))

    def ood_p_values(self, ood_scores: Values) -> Values:
        """Conformal p-value of each case that it is in-distribution."""
        return conformal_p_values(ood_scores, np.array(self.ood_scores))

    def gaps(self, scores: Values, ood_scores: Values) -> dict[str, float]:
        """Differences between the distributions of cases and of the calibration cases.

        These are the largest difference of the acceptance scores and of the OOD scores, where it is
        one that equal distributions seldom have. None are known of few cases.
        """
        finite = np.isfinite(scores)
        if finite.sum() < FEWEST_IMAGES:
            return {}
        compared = {
            "acceptance": (scores[finite], self.images.scores),
            "ood": (ood_scores[finite], self.ood_scores),
        }
        gaps = {}
        for name, (new, calibration) in compared.items():
            gap, p_value = compare_distributions(new, np.array(calibration))
            if p_value <= DIFFERENT / len(compared):
                gaps[name] = gap
        return gaps

    @property
    def min_batch(self) -> int:
        """Number of cases from which on they can be decided together."""
        return 1 if self.selection is None else MIN_BATCH

    def above(self, ood_scores: Values) -> Bool[np.ndarray, " n"]:
        """Mark the cases above the OOD limit; without one, all."""
        if self.ood_threshold is None:
            return np.ones(len(ood_scores), dtype=bool)
        return np.asarray(np.isfinite(ood_scores) & (ood_scores > self.ood_threshold))


def ranks_to_test(cases: int) -> Counts:
    """At most 100 evenly spaced ranks among so many cases, the last of which is all of them.

    >>> ranks_to_test(3), len(ranks_to_test(1234))
    (array([1, 2, 3]), 100)
    """
    shares = np.arange(1, MOST_RANKS + 1) / MOST_RANKS
    return np.unique(np.ceil(shares * cases - ROUNDING).astype(int)) if cases else np.arange(0)


def number_reaching(scores: Values, thresholds: Float[np.ndarray, " ranks"]) -> Counts:
    """Number of scores that reach each threshold.

    >>> number_reaching(np.array([0.9, 0.5, 0.2]), np.array([0.9, 0.5, -np.inf]))
    array([1, 2, 3])
    """
    return len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
