"""Errors that are expected of cases without labels, and whether the estimate may hold."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from misgiving.arrays import Mask, Values
from misgiving.deferral.bounds import binomial_cdf, lower_bound, upper_bound
from misgiving.deferral.certificate import (
    FEWEST_IMAGES,
    SELECTION_ERRORS,
    Certificate,
    ranks_to_test,
)
from misgiving.deferral.drift import DriftMonitor, DriftTest
from misgiving.deferral.policy import Policy

if TYPE_CHECKING:
    from pandas import DataFrame

DRAWS = 10_000
MOST_TESTED = 5000  # cases that are tested for drift, drawn at random
LEVEL = 0.05
LEVEL_OF_SHARES = 0.2  # part of the level of a bound between ranks


class ExpectedError(NamedTuple):
    """The share of wrong answers that is expected, with an interval for the share in this set."""

    images: int
    error: float
    lower: float
    upper: float


class ExpectedPerformance(NamedTuple):
    """Expected errors of a set of cases without labels, and whether to trust them.

    Attributes:
        errors: Of all cases whose outputs are finite, and of the accepted ones. The first is None
            where cases were drawn above a limit; the second where no case is accepted, or too few
            calibration cases are.
        error_bound: Upper bound on the error among the accepted, where the batch has its own
            threshold; else None.
        alarms: The tests for drift that found the cases to differ from the calibration cases.
        gaps: Largest difference between the distributions of the cases and of the calibration
            cases, by score, where these differ; `acceptance` or `ood`.
    """

    errors: tuple[ExpectedError | None, ExpectedError | None]
    error_bound: float | None
    alarms: tuple[DriftTest, ...]
    gaps: Mapping[str, float]


def expected_performance(policy: Policy, table: "DataFrame") -> ExpectedPerformance | None:
    """Estimate the errors of cases without labels, and test whether the estimate may hold.

    Args:
        policy: By which the cases were decided.
        table: A row for each case as `Decisions.to_frame` has it, after its name, which breaks
            ties in the tests for drift. Cases without an acceptance score are left out.

    Returns:
        None where `expected_errors` is None.
    """
    table = table[table["acceptance_score"].notna()]
    scores, ood_scores = (table[name].to_numpy(float) for name in ("acceptance_score", "ood_score"))
    accepted, names = (table["decision"] == "accept").to_numpy(bool), table.iloc[:, 0].tolist()
    certificate, monitor = policy.certificate, DriftMonitor(policy.certificate)
    has_own = certificate.selection is not None and accepted.any()
    threshold = float(scores[accepted].min()) if has_own else None
    errors = policy.calibration.error_at(scores)
    expected = expected_errors(policy, errors, accepted, threshold=threshold)
    if expected is None:
        return None
    # in a random order, since the cases may be sorted
    for row in np.random.default_rng(0).permutation(len(table))[:MOST_TESTED]:
        monitor.update(
            score=float(scores[row]),
            ood_score=float(ood_scores[row]),
            accepted=bool(accepted[row]),
            content=names[row],
        )
    gaps = certificate.gaps(scores, ood_scores)
    alarms = tuple(test for test in monitor.tests if test.since is not None)
    bound = None if threshold is None else error_bound_at(certificate, threshold)
    return ExpectedPerformance(expected, bound, alarms, gaps)


def expected_errors(
    policy: Policy, errors: Values, accepted: Mask, *, threshold: float | None = None
) -> tuple[ExpectedError | None, ExpectedError | None] | None:
    """Estimate the errors of cases that are drawn like the calibration cases.

    The mean error probability is corrected by the mean difference between errors and error
    probabilities of the calibration cases, which the calibrator has not seen. The interval has 95 %
    of a predictive distribution: the correction is drawn from a normal distribution, and the number
    of errors, given the corrected mean, from a binomial one, which is a little too wide. Cases of
    one group count as independent, so that it is too narrow where there are many of each group.

    The accepted calibration cases also chose the threshold, so that fewer of them are wrong than of
    others: two more count as wrong. The interval of the accepted reaches at least as high as for a
    batch with the error that is certified, or that holds with confidence beside an average.

    Args:
        policy: By which the cases were decided.
        errors: Error probabilities; cases where one is not finite are left out.
        accepted: True for the accepted cases.
        threshold: Lowest accepted score of a batch that has its own; None: that of the policy.

    Returns:
        The errors of all cases and of the accepted ones; None with fewer than 20 calibration cases
        or cases, or if neither is known.
    """
    finite = np.isfinite(errors)
    certificate, scores = policy.certificate, np.array(policy.certificate.scores)
    taken, both = certificate.accepted_cases, finite & accepted
    highest = certificate.highest_error if threshold is None else 1.0
    if threshold is not None:
        taken = np.array(certificate.kept, dtype=bool) & (scores >= threshold)
        highest = error_bound_at(certificate, threshold)
    enough = both.any() and taken.sum() >= FEWEST_IMAGES
    known = certificate.pool is None or enough
    if min(len(scores), finite.sum()) < FEWEST_IMAGES or not known:
        return None
    everything = np.ones(len(scores), dtype=bool)
    return (
        _expected(errors[finite], certificate, everything) if certificate.pool is None else None,
        _expected(errors[both], certificate, taken, highest, more=SELECTION_ERRORS)
        if enough
        else None,
    )


def _expected(
    errors: Values,
    certificate: Certificate,
    cases: Bool[np.ndarray, " cases"],
    highest: float = 0.0,
    *,
    more: int = 0,
) -> ExpectedError:
    mean = float(errors.mean())
    correction, spread = certificate.correction(cases, mean, more=more)
    random = np.random.default_rng(0)
    means = (mean + correction + spread * random.standard_normal(DRAWS)).clip(0, 1)
    shares = random.binomial(len(errors), means) / len(errors)
    lower, upper = np.quantile(shares, [LEVEL / 2, 1 - LEVEL / 2])
    shares_at_most = binomial_cdf(np.arange(len(errors) + 1), len(errors), highest)
    upper = max(upper, np.searchsorted(shares_at_most, 1 - LEVEL / 2) / len(errors))
    return ExpectedError(
        len(errors), min(max(mean + correction, 0.0), 1.0), float(lower), float(upper)
    )


def error_bound_at(certificate: Certificate, threshold: float) -> float:
    """Upper bound on the error at any threshold, as that of a batch; all hold together."""
    certify = np.array(certificate.kept, dtype=bool)
    scores, wrong = np.array(certificate.scores)[certify], np.array(certificate.errors)[certify]
    level, ranks = certificate.level, ranks_to_test(len(scores))
    return bound_at_threshold(threshold, scores, wrong, ranks, level=level)


def bound_at_threshold(
    threshold: float,
    scores: Float[np.ndarray, " n"],
    wrong: Bool[np.ndarray, " n"],
    ranks: Int[np.ndarray, " ranks"],
    *,
    level: float,
) -> float:
    """Upper bound on the share that is wrong among the cases with a score of at least a threshold.

    The probability that it is exceeded at any threshold is at most `level`. Between ranks j and k,
    no more is wrong than at k, and the j best are accepted: a share of what k accepts that is at
    least Beta(j, k - j + 1), where equal scores are ordered at random. Each k has one bound on the
    errors and one on this share. The bound is 1 for fewer cases than the lowest rank.

    Args:
        threshold: Any; it may depend on the cases.
        scores: Of independent cases.
        wrong: Which are wrong; of equal scores, these are counted first.
        ranks: Increasing, up to the number of cases.
        level: Divided among the ranks.
    """
    position = np.searchsorted(ranks, (scores >= threshold).sum())
    if not position:
        return 1.0
    j, k = ranks[position - 1], ranks[position]
    mistaken, each = wrong[np.lexsort((~wrong, -scores))[:k]].sum(), level / len(ranks)
    errors = upper_bound(mistaken, k, level=(1 - LEVEL_OF_SHARES) * each)
    return min(1.0, float(errors / lower_bound(j, k, level=LEVEL_OF_SHARES * each)))
