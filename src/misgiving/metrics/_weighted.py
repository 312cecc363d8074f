"""Argument checks and weighted sums over ties, shared by all metrics.

A weight counts how often a sample occurs (a bootstrap count), so that one call measures many
resampled sets: leading axes of the weights are replicates, the last axis is the samples.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real, Shaped

from misgiving.arrays import Mask, Replicates, Values, Weights
from misgiving.errors import UsageError

MetricValue = float | Replicates

MOST_AS_INTEGERS = 2**31  # in sum, so that a square of it does not overflow


def checked_arrays(**arrays: Shaped[np.ndarray, "..."]) -> tuple[Float[np.ndarray, "..."], ...]:
    """Arrays by name in float64, after a check that they are finite and of equal length."""
    first = next(iter(arrays))
    for name, values in arrays.items():
        if len(values) != len(arrays[first]):
            raise UsageError(
                f"{name} has length {len(values)} but {first} has length {len(arrays[first])}; "
                "give one entry for each sample"
            )
        if not len(values):
            raise UsageError(f"{name} is empty; give at least one sample")
        if not np.isfinite(values).all():
            position = np.argwhere(~np.isfinite(values))[0][0]
            raise UsageError(
                f"{name} is not finite at position {position}; leave such samples out before "
                "measuring"
            )
    return tuple(values.astype(np.float64) for values in arrays.values())


def checked_weights(
    weights: Real[np.ndarray, "..."] | None, count: int, *, name: str = "weights"
) -> Real[np.ndarray, "..."]:
    """Weights as 64-bit numbers, by default a one for each of `count` samples.

    They are floats, or integers if the given ones are and their sum is not large: running sums of
    integers take a seventh of the time.
    """
    if weights is None:
        return np.ones(count)
    if weights.shape[-1:] != (count,):
        raise UsageError(
            f"{name} has shape {weights.shape}; its last axis must have one weight for each of "
            f"the {count} samples"
        )
    if weights.size and not (weights.min() >= 0 and weights.max() < np.inf):  # NaN is neither
        raise UsageError(f"{name} has a negative or non-finite value; give counts of 0 or more")
    small = weights.dtype.kind != "f" and int(weights.max(initial=0)) * count < MOST_AS_INTEGERS
    return weights.astype(np.int64 if small else np.float64)


def metric_value(
    values: Replicates | np.float64,
    *weights: Real[np.ndarray, "..."] | None,
) -> MetricValue:
    """A float without weights, an array of replicates with weights."""
    if all(given is None for given in weights):
        return float(values)
    return np.asarray(values)


def ratio(
    numerator: Real[np.ndarray, "..."] | np.number,
    denominator: Real[np.ndarray, "..."] | np.number,
) -> Float[np.ndarray, "..."]:
    """Quotient, NaN where the denominator is 0."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    quotient = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=np.not_equal(denominator, 0))
    return quotient


def mean_without_nan(values: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """Mean over the last axis without NaN values; NaN if all are."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1) * 1.0)


class Around(NamedTuple):
    """Weight of a set's samples below each of some values, and of those below or equal to it."""

    below: Float[np.ndarray, "*replicates m"]
    up_to: Float[np.ndarray, "*replicates m"]

    def share_of_pairs(
        self,
        weights: Float[np.ndarray, "*replicates m"],
        pairs: Float[np.ndarray, "..."] | np.float64,
    ) -> Float[np.ndarray, "..."]:
        """Share of pairs in which the set's sample is below the value, ties counted half."""
        share = ratio(np.vecdot(weights, self.below + self.up_to), 2 * pairs)
        return np.asarray(np.minimum(share, 1.0))  # sums of fractional weights are rounded


class Ordered(NamedTuple):
    """Weights of a set's samples in ascending order of a value."""

    values: Values
    weights: Float[np.ndarray, "*replicates n"]
    sums: Float[np.ndarray, "*replicates n+1"]
    """Weight of the first 0, 1, ..., n samples."""

    @classmethod
    def of(cls, values: Values, weights: Weights) -> "Ordered":
        """Sort samples by value, and sum their weights."""
        order = np.argsort(values)
        weights = weights.take(order, axis=-1)  # in rows; an index would give columns
        sums = np.zeros((*weights.shape[:-1], len(order) + 1))
        sums[..., 1:] = np.cumsum(weights, axis=-1)
        return cls(values[order], weights.astype(np.float64), sums)

    @property
    def total(self) -> Replicates:
        """Weight of all samples."""
        return self.sums[..., -1]

    @property
    def negated(self) -> "Ordered":
        """The same samples in ascending order of the negative value."""
        above = self.total[..., None] - self.sums
        return Ordered(-self.values[::-1], self.weights[..., ::-1], above[..., ::-1])

    def around(self, values: Float[np.ndarray, " m"]) -> Around:
        """Weight of the samples below each of some finite values, and of those at it, too.

        >>> ordered = Ordered.of(np.array([0.5, 0.1, 0.1]), np.array([1, 2, 3]))
        >>> ordered.around(np.array([0.1, 0.5]))
        Around(below=array([0., 5.]), up_to=array([5., 6.]))
        """
        if values is self.values and (np.diff(values) > 0).all():
            return Around(self.sums[..., :-1], self.sums[..., 1:])
        first = np.searchsorted(self.values, values)
        below = self.sums.take(first, axis=-1)
        if not (np.append(self.values, np.inf)[first] == values).any():
            return Around(below, below)
        last = np.searchsorted(self.values, values, side="right")
        return Around(below, self.sums.take(last, axis=-1))


def auroc(scores: Values, positives: Mask, weights: Weights) -> Replicates:
    """Probability that a positive has a higher score than a negative; NaN without both.

    >>> auroc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]), np.ones(3))
    array(0.75)
    """
    higher, lower = (
        Ordered.of(scores[members], weights.compress(members, axis=-1))
        for members in (positives, ~positives)
    )
    pairs = higher.total * lower.total
    return lower.around(higher.values).share_of_pairs(higher.weights, pairs)
