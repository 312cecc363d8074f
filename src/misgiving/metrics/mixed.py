"""Wrong answers and OOD images as one kind of failure, for a reviewer who gets both.

After Xia and Bouganis (ACCV 2022) and Narasimhan et al. ("plugin estimators for selective
classification with out-of-distribution detection", ICLR 2024): an answer may be used if the image
is in-distribution *and* the answer is right. Sets are weighted so that the OOD images are a given
share of all, however many there are of each. A higher confidence means more likely right and
in-distribution; equal confidences are accepted in random order.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from misgiving.errors import UsageError
from misgiving.metrics._weighted import auroc, checked_arrays, ties

Confidences = Float[np.ndarray, " n"]
Errors = Bool[np.ndarray, " n"]
Outliers = Float[np.ndarray, " n_out"]


class _Mixture(NamedTuple):
    """Both sets as one: confidence, failure and weight of each sample."""

    confidences: Float[np.ndarray, " both"]
    failures: Bool[np.ndarray, " both"]
    weights: Float[np.ndarray, " both"]


def mixed_aurc(
    confidences: Confidences, errors: Errors, outliers: Outliers, *, ood_share: float
) -> float:
    """AURC of the mixture: mean selective risk over coverages, every OOD image being an error.

    The weights need not be whole numbers, so a sample may be accepted in part: the measure is the
    limit of `aurc` as all samples are repeated ever more often in proportion to their weights.

    Args:
        confidences: Of the in-distribution images.
        errors: True where the answer on one of these is wrong.
        outliers: Confidences of the OOD images.
        ood_share: Share of OOD images in the mixture; with 0 their number does not matter.

    >>> round(mixed_aurc(np.array([0.9]), np.array([False]), np.array([0.5]), ood_share=0.5), 4)
    0.1534
    """
    mixture = _mixed(confidences, errors, outliers, ood_share)
    tied = ties(-mixture.confidences)
    weights = mixture.weights[tied.order]
    added = tied.sums(weights)
    failed = tied.sums(weights * mixture.failures[tied.order])
    accepted = np.cumsum(added)
    before, failed_before = (np.append(0.0, np.cumsum(sums)[:-1]) for sums in (added, failed))
    # within a tie of mean error u the risk at mass x is (failed before + (x - before) u) / x
    mean = np.divide(failed, added, out=np.zeros_like(added), where=added > 0)
    logarithms = np.log(np.divide(accepted, before, out=np.ones_like(before), where=before > 0))
    return float((failed + (failed_before - before * mean) * logarithms).sum() / accepted[-1])


def mixed_auroc(
    confidences: Confidences, errors: Errors, outliers: Outliers, *, ood_share: float
) -> float:
    """AUROC of right in-distribution answers against wrong ones and OOD images; NaN without both.

    Arguments are those of `mixed_aurc`.

    >>> sure, wrong = np.array([0.9, 0.7, 0.2]), np.array([False, False, True])
    >>> mixed_auroc(sure, wrong, np.array([0.8]), ood_share=0.25)
    0.75
    """
    mixture = _mixed(confidences, errors, outliers, ood_share)
    return float(auroc(mixture.confidences, ~mixture.failures, mixture.weights))


def _mixed(
    confidences: Confidences, errors: Errors, outliers: Outliers, ood_share: float
) -> _Mixture:
    if not 0 <= ood_share < 1:
        raise UsageError(f"`ood_share` must be at least 0 and below 1, got {ood_share}")
    confidences, _ = checked_arrays(confidences=confidences, errors=errors)
    (outliers,) = checked_arrays(outliers=outliers)
    count, others = len(confidences), len(outliers)
    return _Mixture(
        confidences=np.concatenate([confidences, outliers]),
        failures=np.concatenate([errors, np.ones(others, dtype=np.bool_)]),
        weights=np.repeat([(1 - ood_share) / count, ood_share / others], [count, others]),
    )
