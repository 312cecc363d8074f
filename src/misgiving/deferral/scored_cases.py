"""Scored and labelled cases, one per group, with which a policy is tuned and calibrated."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.errors import DataError, UsageError

Scores = Float[np.ndarray, "*draws n"]

FEWEST_CASES = 5


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Predictions of known correctness, one per group.

    Leading axes, where there are any, are independent draws of calibration cases.

    Attributes:
        scores: Acceptance scores; higher means more likely correct.
        ood_scores: Higher means more in-distribution; None without a detector.
        wrong: True where the named class is wrong.
        labels: Position of the true class.
        acceptable: False where an image is deferred whatever its score, by a rule that was fixed
            before; None: all are acceptable.
    """

    scores: Scores
    ood_scores: Scores | None = None
    wrong: Bool[np.ndarray, "*draws n"]
    labels: Int[np.ndarray, "*draws n"]
    acceptable: Bool[np.ndarray, "*draws n"] | None = None

    def __len__(self) -> int:
        return int(self.scores.shape[-1])

    def __getitem__(self, chosen: Bool[np.ndarray, " n"] | Int[np.ndarray, "..."]) -> "ScoredCases":
        ood = None if self.ood_scores is None else self.ood_scores[chosen]
        return ScoredCases(
            scores=self.scores[chosen],
            ood_scores=ood,
            wrong=self.wrong[chosen],
            labels=self.labels[chosen],
            acceptable=None if self.acceptable is None else self.acceptable[chosen],
        )

    def eligible(
        self, ood_limit: Float[np.ndarray, "*draws"] | np.floating | float | None = None
    ) -> Bool[np.ndarray, "*draws n"]:
        """Mark the acceptable cases above the OOD limit, if there is one."""
        marked = np.ones(self.scores.shape, dtype=bool)
        if self.acceptable is not None:
            marked &= self.acceptable
        if ood_limit is not None and self.ood_scores is not None:
            marked &= self.ood_scores > np.asarray(ood_limit)[..., None]
        return marked


def one_per_group(
    groups: Sequence[str] | Int[np.ndarray, " n"], *, seed: int
) -> Int[np.ndarray, " groups"]:
    """Draw one image of each group at random; positions in ascending order.

    Raises:
        DataError: The group of an image has no name.

    >>> len(one_per_group(["a", "b", "a", "a"], seed=0))
    2
    """
    if isinstance(groups, Sequence) and not all(groups):
        position = [bool(group) for group in groups].index(False)
        raise DataError(f"groups has no name at position {position}; name the group of every image")
    order = np.random.default_rng(seed).permutation(len(groups))
    _, firsts = np.unique(np.asarray(groups)[order], return_index=True)
    return np.sort(order[firsts])


def check_count(set_name: str, cases: int) -> None:
    """Refuse a set of so few cases that it cannot be used."""
    if cases < FEWEST_CASES:
        raise DataError(
            f"the {set_name} set has {cases} cases; give at least {FEWEST_CASES} groups"
        )


def check_usable(set_name: str, cases: ScoredCases, *, classes: Sequence[str]) -> None:
    """Refuse a set that no policy can be tuned or calibrated with."""
    check_count(set_name, len(cases))
    for name in ("ood_scores", "wrong", "labels", "acceptable"):
        values = getattr(cases, name)
        if values is not None and len(values) != len(cases):
            raise UsageError(
                f"{name} of the {set_name} set has length {len(values)} but scores has length "
                f"{len(cases)}; give one entry for each case"
            )
    _check_finite(f"scores of the {set_name} set", cases.scores)
    if cases.ood_scores is not None:
        _check_finite(f"ood_scores of the {set_name} set", cases.ood_scores)
    _check_labels(f"labels of the {set_name} set", cases.labels, len(classes))
    if np.ptp(cases.scores) == 0:
        raise DataError(
            f"scores of the {set_name} set are all {cases.scores[0]:g}, so no threshold separates "
            "the cases; give outputs that differ in confidence, not classes alone"
        )


def _check_finite(name: str, values: Scores) -> None:
    if not np.isfinite(values).all():
        position = np.argmin(np.isfinite(values))
        raise DataError(
            f"{name} is {values[position]} at position {position}; leave such cases out, and say so"
        )


def _check_labels(name: str, labels: Int[np.ndarray, " n"], num_classes: int) -> None:
    unknown = (labels < 0) | (labels >= num_classes)
    if unknown.any():
        position = np.argmax(unknown)
        raise DataError(
            f"{name} is {labels[position]} at position {position}; there are {num_classes} "
            "classes, counted from 0"
        )
