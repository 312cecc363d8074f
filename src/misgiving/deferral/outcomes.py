"""Records of a certificate: what was observed at a threshold, and what decides a batch."""

import math
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import AllowInfNan, BeforeValidator, PlainSerializer

from misgiving.arrays import Values

ROUNDING = 1e-9
OFTEN_MISSED, OFTEN_WRONG = 1 / 3, 1 / 2  # shares of the cases, and of the answers, of a class
FEWEST = 5  # cases or answers of a class of which a share is taken for often


Threshold = Annotated[
    float,
    AllowInfNan(True),
    BeforeValidator(lambda value: math.inf if value is None else value),
    PlainSerializer(lambda value: None if value == math.inf else value),
]
"""Lowest accepted score; -inf: all are accepted; inf: none is, for which files have null."""


class OperatingPoint(NamedTuple):
    """Calibration cases that a threshold accepts.

    Attributes:
        threshold: Lowest accepted score.
        accepted: Number of accepted cases.
        wrong: How many of these are wrong.
        coverage: Share of all cases that is accepted, by the pool or the calibration cases.
        error: Share of the accepted that is wrong; None where none is accepted.
        bound: Upper bound on the error; holds for all operating points at once.
    """

    threshold: float
    accepted: int
    wrong: int
    coverage: float
    error: float | None
    bound: float


@dataclass(frozen=True, kw_only=True)
class CertifiableError:
    """Smallest target error rate that these cases certify, and the number of cases accepted.

    It is searched by halving; as numbers of cases are whole, a smaller one may be certified, too.
    """

    max_error: float
    accepted: int


@dataclass(frozen=True, kw_only=True)
class ClassOutcome:
    """Observed misses of a class or superclass with a target.

    Attributes:
        name: The class or superclass.
        rate: The target.
        cases: Its calibration cases.
        missed: How many are accepted as another one, without the OOD limit; at the strictest
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

    Where superclasses are answered, they take the place of the classes.

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
        confused_with: Most frequent class of the wrong ones; None where none is wrong.
        limit: A further target for this class, or for `confused_with`, where many are missed
            or wrong; certified with the same cases. None also where it has a target.
        accepted_with_limit: Calibration cases that are accepted with this further target.
    """

    name: str
    cases: int
    missed: int
    missed_bound: float
    predicted: int
    wrong: int
    wrong_bound: float
    confused_with: str | None = None
    limit: ClassOutcome | None = None
    accepted_with_limit: int = 0

    @property
    def is_often_missed(self) -> bool:
        """True if at least a third of its cases, and of five, are accepted as another class."""
        return self.cases >= FEWEST and self.missed / self.cases >= OFTEN_MISSED

    @property
    def is_often_wrong(self) -> bool:
        """True if at least half of its accepted answers, and of five, are wrong."""
        return self.predicted >= FEWEST and self.wrong / self.predicted >= OFTEN_WRONG


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Labelled cases that decide which cases of a batch are accepted (conformal selection).

    With n labelled cases, m new cases, and W(t) the number of labelled cases that are wrong with a
    score of at least t: the k best cases are accepted, for the largest k with
    (1 + W(s_k)) m / ((n + 1) k) <= max_error, where s_k is the score of the last one accepted. Then
    the share of wrong answers among the accepted is at most `max_error` on average over labelled
    cases and batches (Jin and Candes, 2023). docs/explanation/guarantee.md derives it, and the
    limits and parts below.

    Attributes:
        cases: Their number above the OOD limit.
        lowest: No case is accepted with a lower score, by the targets of classes and of silent
            errors.
        rates: Parts of `max_error`: one for each class with a target, and one for the others. Empty
            without `max_error`: `lowest` alone decides, for single cases, too.
        wrong: For each part, the scores of its cases that are wrong, lowest first.
    """

    cases: int
    lowest: Threshold
    rates: tuple[float, ...]
    wrong: tuple[tuple[float, ...], ...]

    def threshold(self, scores: Values, images: int) -> float:
        """The lowest score that is accepted in a batch; inf: none is.

        Args:
            scores: Of the cases that can be accepted.
            images: Number of all images of the batch above the OOD limit.
        """
        if not self.rates:
            return self.lowest
        candidates = np.sort(scores[scores >= self.lowest])[::-1]
        accepted = np.searchsorted(-candidates, -candidates, side="right")  # with all that are tied
        meets = np.ones(len(candidates), dtype=bool)
        for rate, of_part in zip(self.rates, self.wrong, strict=True):
            mistaken = len(of_part) - np.searchsorted(of_part, candidates, side="left")
            allowed = rate * (self.cases + 1) * accepted
            meets &= (1 + mistaken) * images <= allowed * (1 + ROUNDING)
        return float(candidates[meets][-1]) if meets.any() else math.inf


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Unlabelled cases that a certificate is about, one of each group.

    Attributes:
        limit: Acceptance score above which the cases were drawn, and above which alone a case is
            ever accepted; -inf: all acceptable cases above the OOD limit.
        scores: Acceptance scores of the cases, highest first.
        kept: For each, True where the case is acceptable and above the OOD limit.
        drawn: Acceptance scores of the drawn cases, in their order.
    """

    limit: Threshold
    scores: tuple[float, ...] = field(repr=False)
    kept: tuple[bool, ...] = field(repr=False)
    drawn: tuple[float, ...] = field(default=(), repr=False)

    @property
    def part(self) -> int:
        """Number of cases of the part from which the cases were drawn."""
        return int((np.array(self.kept) & (np.array(self.scores) > self.limit)).sum())


class Capacity(NamedTuple):
    """The loosest threshold that defers at most `max_deferred`, by scores without labels.

    Attributes:
        most: Calibration cases that may be deferred; 0: there are too few cases for the target.
        threshold: Lowest accepted score.
        accepted: Calibration cases that it accepts. Where more than `most` are left, these are
            never accepted, and the target cannot be met.
        wrong: How many of these are wrong.
    """

    most: int
    threshold: Threshold
    accepted: int
    wrong: int


class Coarse(NamedTuple):
    """Answers that are a superclass alone, among which more are wrong than among all.

    Attributes:
        accepted: Their number among the calibration cases.
        wrong: How many have another superclass.
        bound: Upper bound on the share of these, for any two thresholds.
    """

    accepted: int
    wrong: int
    bound: float


class MeanCost(NamedTuple):
    """Mean cost of a calibration case: of a review, or of an accepted answer that is wrong.

    Attributes:
        mean: By the decisions of the policy.
        lower: Lower end of a two-sided interval of the mean.
        upper: Upper end. Shares of each cost have exact intervals, with their parts of the level.
        accept_all: Mean if all are accepted.
        best: The lowest mean that a threshold of the score would have had for these cases.
    """

    mean: float
    lower: float
    upper: float
    accept_all: float
    best: float
