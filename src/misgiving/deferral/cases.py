"""What a policy is calibrated with: cases, of which each lesion gives one, and targets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.errors import DataError, UsageError

Scores = Float[np.ndarray, "*draws n"]

FEWEST_CASES = 5


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Cases that the model has answered, one per group. Scores are confidences.

    Leading axes, where there are any, are independent draws of calibration cases.

    Attributes:
        scores: Higher where the answer should rather be accepted.
        ood_scores: Higher where the image is more like the training images; None: no detector.
        wrong: Whether the answer is wrong.
        labels: Position of the true class.
    """

    scores: Scores
    ood_scores: Scores | None = None
    wrong: Bool[np.ndarray, "*draws n"]
    labels: Int[np.ndarray, "*draws n"]

    def __len__(self) -> int:
        return int(self.scores.shape[-1])

    def __getitem__(self, chosen: Bool[np.ndarray, " n"] | Int[np.ndarray, "..."]) -> "Cases":
        ood = None if self.ood_scores is None else self.ood_scores[chosen]
        return Cases(
            scores=self.scores[chosen],
            ood_scores=ood,
            wrong=self.wrong[chosen],
            labels=self.labels[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is promised of the answers that will be accepted.

    Attributes:
        max_error: Of the accepted answers, at most this share is wrong.
        confidence: Probability, over draws of the calibration cases, that the targets hold.
        class_max_miss: Of this class's cases, at most this share is accepted as another class.
        max_ood_false_alarms: Of images like the calibration cases, at most this share is flagged;
            None: no image is called out-of-distribution.
        simultaneous: Whether all targets hold together with the confidence, or each by itself.
        prevalence: Shares of classes where the policy will be used; the others share the rest.
    """

    max_error: float
    confidence: float = 0.95
    class_max_miss: Mapping[str, float] = field(default_factory=dict)
    max_ood_false_alarms: float | None = None
    simultaneous: bool = True
    prevalence: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        _between("max_error", self.max_error)
        _between("confidence", self.confidence)
        if self.max_ood_false_alarms is not None:
            _between("max_ood_false_alarms", self.max_ood_false_alarms)
        for name, rate in self.class_max_miss.items():
            _between(f"class_max_miss of {name}", rate)
        for name, share in (self.prevalence or {}).items():
            if not 0 <= share <= 1:
                raise UsageError(f"prevalence of {name} is {share}; give a share from 0 to 1")

    @property
    def level(self) -> float:
        """Probability with which each single promise may fail.

        >>> round(Targets(max_error=0.1, max_ood_false_alarms=0.05).level, 3)
        0.025
        """
        promised = 1 + len(self.class_max_miss) + (self.max_ood_false_alarms is not None)
        return (1 - self.confidence) / (promised if self.simultaneous else 1)


def rates_by_class(pairs: Iterable[str], *, what: str = "class promise") -> dict[str, float]:
    """Rates from `CLASS=RATE`, as they are typed at the command line.

    >>> rates_by_class(["MEL=0.02", "BCC=0.1"])
    {'MEL': 0.02, 'BCC': 0.1}
    """
    rates: dict[str, float] = {}
    for pair in pairs:
        name, _, rate = pair.rpartition("=")
        if name in rates:
            raise UsageError(f"{what} for {name} is given twice; give one rate for each class")
        try:
            rates[name] = float(rate)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"{what} {pair!r} is not CLASS=RATE; write it as MEL=0.02")
    return rates


def one_per_group(groups: Sequence[str], *, seed: int) -> Int[np.ndarray, " groups"]:
    """Position of one image of each group, drawn at random, in order of position.

    >>> len(one_per_group(["a", "b", "a", "a"], seed=0))
    2
    """
    if not all(groups):
        position = [bool(group) for group in groups].index(False)
        raise DataError(f"groups has no name at position {position}; name every image's lesion")
    order = np.random.default_rng(seed).permutation(len(groups))
    _, firsts = np.unique(np.asarray(groups, dtype=str)[order], return_index=True)
    return np.sort(order[firsts])


def refuse_unusable(part: str, cases: Cases, *, classes: Sequence[str]) -> None:
    """Refuse cases that a policy cannot be calibrated with; `part` is named."""
    if len(cases) < FEWEST_CASES:
        raise DataError(
            f"the {part} part has {len(cases)} cases; at least {FEWEST_CASES} lesions are needed"
        )
    _refuse_other_lengths(part, cases)
    _refuse_not_finite(f"scores of the {part} part", cases.scores)
    if cases.ood_scores is not None:
        _refuse_not_finite(f"ood_scores of the {part} part", cases.ood_scores)
    if cases.labels.min() < 0 or cases.labels.max() >= len(classes):
        position = np.argmax((cases.labels < 0) | (cases.labels >= len(classes)))
        raise DataError(
            f"labels of the {part} part is {cases.labels[position]} at position {position}; "
            f"there are {len(classes)} classes, counted from 0"
        )
    if np.ptp(cases.scores) == 0:
        raise DataError(
            f"scores of the {part} part are all {cases.scores[0]:g}: only all or nothing could be "
            "accepted; choose another score"
        )


def _between(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise UsageError(f"{name} is {value}; it must lie between 0 and 1")


def _refuse_other_lengths(part: str, cases: Cases) -> None:
    named = {name: getattr(cases, name) for name in ("ood_scores", "wrong", "labels")}
    for name, values in named.items():
        if values is not None and len(values) != len(cases):
            raise UsageError(
                f"{name} of the {part} part has length {len(values)} but scores has length "
                f"{len(cases)}; give one entry for each case"
            )


def _refuse_not_finite(name: str, values: Scores) -> None:
    if not np.isfinite(values).all():
        position = np.argmin(np.isfinite(values))
        raise DataError(
            f"{name} is {values[position]} at position {position}; leave such cases out, and say so"
        )
