"""Which thresholds keep a promise, from counts of the calibration cases at each of them.

Counts have the candidates on their last axis, strictest first; leading axes are independent
calibration sets.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.deferral.bounds import probability_of_at_most

Counts = Int[np.ndarray, "*draws candidates"]
Chosen = Bool[np.ndarray, "*draws candidates"]


def certified(
    accepted: Counts, wrong: Counts, *, max_error: float, levels: Float[np.ndarray, " candidates"]
) -> Chosen:
    """The thresholds at which "more than `max_error` of the accepted are wrong" is rejected.

    The fallback procedure (Wiens, 2003): a candidate is tested at its own level plus the level that
    its stricter neighbour was rejected at. The probability that any threshold is certified wrongly
    is at most the sum of the levels, whatever the dependence between the tests.

    >>> accepted, wrong = np.array([50, 100]), np.array([0, 2])
    >>> certified(accepted, wrong, max_error=0.1, levels=np.array([0.025, 0.025]))
    array([ True,  True])
    """
    p_values = probability_of_at_most(wrong, accepted, max_error)
    rejected = np.zeros(p_values.shape, dtype=bool)
    carried = np.zeros(p_values.shape[:-1])
    for candidate, level in enumerate(levels):
        carried = carried + level
        rejected[..., candidate] = p_values[..., candidate] <= carried
        carried = np.where(rejected[..., candidate], carried, 0.0)
    return rejected


def allowed(
    misses: Counts,
    cases: Int[np.ndarray, "*draws"] | np.integer | int,
    *,
    rate: float,
    level: float,
) -> Chosen:
    """The thresholds up to which "more than `rate` of the class is missed" is rejected.

    A fixed sequence: from the strictest on, each at the whole level, until the first that fails.

    Args:
        misses: Cases of the class that are accepted with another label.
        cases: All calibration cases of the class.
        rate: The promise.
        level: Probability that a threshold is allowed wrongly, at most.

    >>> allowed(np.array([0, 0, 3]), 100, rate=0.05, level=0.05)
    array([ True,  True, False])
    """
    p_values = probability_of_at_most(misses, np.asarray(cases)[..., None], rate)
    return np.logical_and.accumulate(p_values <= level, axis=-1)


def loosest(chosen: Chosen) -> Int[np.ndarray, "*draws"]:
    """Position of the last candidate that is chosen, -1 where none is.

    >>> loosest(np.array([[True, True, False], [False, False, False]]))
    array([ 1, -1])
    """
    last = chosen.shape[-1] - 1 - np.argmax(chosen[..., ::-1], axis=-1)
    return np.where(chosen.any(axis=-1), last, -1)
