"""The order in which a person reviews images: likely errors first, and no near copies in a row."""

import numpy as np
from jaxtyping import Float, Int

Errors = Float[np.ndarray, " n"]
Features = Float[np.ndarray, "n width"]
Order = Int[np.ndarray, " n"]
Directions = Float[np.ndarray, "n width"]

DIVERSE = 1000  # images that are chosen one by one, each in a pass over all features


def review_order(
    errors: Errors, features: Features | None = None, *, diverse: int = DIVERSE
) -> Order:
    """Order images for review, by probability of error and by diversity of their features.

    The first is the most likely error. Each next one has the largest product of its error
    probability and its distance to the nearest image before it: farthest-first traversal (Gonzalez,
    1985), weighted by the error. The distance is that of unit vectors, at most 2, so the length of
    the features does not matter. After `diverse` images, which take `diverse` times `n` distances,
    the rest follows by descending error probability; so does everything without features.

    Args:
        errors: Probability that the named class is wrong; NaN counts as 1.
        features: Of the same images; a row with a value that is not finite, or of zeros, is equally
            far from all others. None where they are not available.
        diverse: Images that are ordered by diversity as well.

    Returns:
        Positions of the images; of equals, the earlier comes first.

    The second image is a copy of the first, and so comes last:

    >>> errors, features = np.array([0.9, 0.8, 0.1]), np.array([[1.0, 0], [1, 0], [0, 1]])
    >>> review_order(errors, features), review_order(errors)
    (array([0, 2, 1]), array([0, 1, 2]))
    """
    wrong = np.where(np.isnan(errors), 1.0, errors)
    chosen = [] if features is None else _spread(wrong, _directions(features), diverse)
    rest = np.setdiff1d(np.arange(len(wrong)), chosen)
    by_error = rest[np.argsort(-wrong[rest], kind="stable")]
    return np.concatenate([np.array(chosen, dtype=by_error.dtype), by_error])


def _spread(wrong: Errors, directions: Directions, count: int) -> list[int]:
    """Positions of the first images, by error probability times distance to those before."""
    chosen: list[int] = []
    distances = np.full(len(wrong), 2.0)
    remaining = np.ones(len(wrong), dtype=bool)
    for _ in range(min(count, len(wrong))):
        value = np.where(remaining, wrong * distances, -1.0)
        best = np.flatnonzero(value == value.max())
        position = int(best[wrong[best].argmax()])
        chosen.append(position)
        remaining[position] = False
        cosines = directions @ directions[position]
        np.minimum(distances, np.sqrt(np.clip(2 - 2 * cosines, 0, None)), out=distances)
    return chosen


def _directions(features: Features) -> Directions:
    """Rows of unit length in float32; zeros for a row that has no direction."""
    known = np.where(np.isfinite(features).all(axis=1)[:, None], features, 0).astype(np.float32)
    lengths = np.linalg.norm(known, axis=1, keepdims=True)
    return np.asarray(known / np.where(lengths > 0, lengths, 1))
