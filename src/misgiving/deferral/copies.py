"""Copies among the images of a policy, recognised by their outputs."""

import numpy as np

from misgiving.errors import DataError
from misgiving.predictions.record import Predictions

MOST_ALIKE = 0.9  # share of repeated rows that occur equally often, above that of chance
DECIMALS, ROUNDING = 4, 1e-6  # of outputs that may be alike by rounding, and of these numbers


def check_copies(tuning: Predictions, calibration: Predictions) -> None:
    """Check that the calibration set does not have the images of the tuning set by other names.

    An image is known by its logits. Rounded ones are alike for many images, so that only rows that
    occur once count, and more than half of these must occur in both sets.

    Raises:
        DataError: It has them.
    """
    rows = [np.unique(part.logits, axis=0, return_counts=True) for part in (tuning, calibration)]
    once = [{*map(bytes, values[counts == 1])} for values, counts in rows]
    shared = len(once[0] & once[1])
    if 2 * shared > min(map(len, once)):
        raise DataError(
            f"{shared} rows of the calibration set are also in the tuning set; give images that "
            "nothing was chosen on"
        )


def repeated_outputs(*parts: Predictions) -> int:
    """Number of rows with the outputs of another row, but for rounding; 0 if that may be chance.

    Images of a doubled set occur twice each. Nearest neighbours and trees give the same output to
    some different images, but one more often than another. Outputs in few decimals do not count.
    """
    kinds = []
    for part in parts:
        outputs = part.logits if part.kind == "logits" else np.exp(part.logits)
        exact = (np.abs(outputs - outputs.round(DECIMALS)) > ROUNDING).any(axis=1)
        kinds.append(part.logits[exact].round(DECIMALS))
    counts = np.unique(np.concatenate(kinds), axis=0, return_counts=True)[1]
    rows = np.bincount(counts[counts > 1], weights=counts[counts > 1])  # by times that each occurs
    return int(rows.sum()) if rows.max(initial=0) >= MOST_ALIKE * rows.sum() else 0
