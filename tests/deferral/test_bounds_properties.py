"""Laws of exact bounds and tests, recomputed as binomial sums in fractions."""

from fractions import Fraction
from math import comb

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from strategies import generators, heights, ranks

from misgiving.deferral.bounds import (
    binomial_cdf,
    conformal_p_values,
    lower_bound,
    tolerance_rank,
    upper_bound,
)
from misgiving.deferral.certificate import ranks_to_test
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import RankCounts, just_above, meets_other_targets

percents = st.integers(1, 99).map(lambda percent: Fraction(percent, 100))
levels = st.floats(1e-6, 0.5)


@st.composite
def counted(draw, most=60):
    """A number of events and the cases that could have had one."""
    cases = draw(st.integers(0, most))
    return draw(st.integers(0, cases)), cases


def at_most(count, cases, probability):
    """P(Bin(cases, probability) <= count) in fractions."""
    other = 1 - probability
    return sum(
        comb(cases, k) * probability**k * other ** (cases - k) for k in range(min(count, cases) + 1)
    )


@given(counted(), percents)
def test_a_p_value_is_a_binomial_sum_in_fractions(drawn, probability):
    count, cases = drawn
    expected = float(at_most(count, cases, probability))
    found = float(binomial_cdf(count, cases, float(probability)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@given(counted(), levels)
def test_at_a_bound_the_tail_probability_is_the_level(drawn, level):
    count, cases = drawn
    upper, lower = (float(of(*drawn, level=level)) for of in (upper_bound, lower_bound))
    assert 0 <= lower <= upper <= 1
    if count == cases:
        assert upper == 1
    else:
        np.testing.assert_allclose(stats.binom.cdf(count, cases, upper), level, rtol=1e-6)
    if count == 0:
        assert lower == 0
    else:
        np.testing.assert_allclose(stats.binom.sf(count - 1, cases, lower), level, rtol=1e-6)


@given(st.integers(1, 150), percents, percents)
def test_the_ood_rank_is_the_highest_whose_share_is_within_the_rate(cases, rate, level):
    rank = tolerance_rank(cases, rate=float(rate), level=float(level))
    # more than `rate` lies below the k-th lowest when fewer than k cases fall into that share
    failing = [at_most(k - 1, cases, rate) for k in (rank, rank + 1)]
    assume(abs(failing[1] - level) > Fraction(1, 10**12))  # rounding may decide such a draw
    assert rank == 0 or failing[0] <= level + Fraction(1, 10**12)
    assert rank == cases or failing[1] > level
    assert rank == 0 or stats.beta.sf(float(rate), rank, cases - rank + 1) <= float(level) + 1e-9


@given(st.lists(st.integers(0, 9), min_size=6, max_size=6), st.integers(9, 60), percents, percents)
def test_targets_of_classes_and_silent_errors_are_met_up_to_the_first_rank_that_fails(
    missed, cases, rate, level
):
    misses, number = np.array(missed), np.arange(1, 7)
    p_values = [at_most(k, cases, rate) for k in misses.tolist()]
    assume(all(abs(p - level) > Fraction(1, 10**12) for p in p_values))
    expected = [all(p <= level for p in p_values[: at + 1]) for at in range(6)]
    kept = np.ones(cases, dtype=bool)
    limited = [(float(rate), misses, cases)]
    counts = RankCounts(cases, kept, number, number / -1, misses, limited)
    for limits in ({"max_silent_error": float(rate)}, {"class_max_miss": {"a": float(rate)}}):
        targets = Targets(
            **{"max_error": 0.5, "confidence": float(1 - level), "simultaneous": False} | limits
        )
        assert meets_other_targets(counts, targets).tolist() == expected


@given(st.integers(0, 1000))
def test_ranks_are_at_most_100_even_steps_that_end_with_all(cases):
    tested = ranks_to_test(cases)
    assert len(tested) == min(cases, 100)
    assert not cases or tested[-1] == cases
    steps = np.diff(tested, prepend=0)
    assert set(steps) <= ({1} if cases < 100 else {cases // 100, cases // 100 + 1})


@given(heights(2, largest=1e100))
def test_the_lowest_threshold_above_a_score_separates_it_from_the_next(scores):
    (lowest,) = just_above(scores[:1], scores[1:])
    assert scores[0] < lowest <= scores[1]
    assert np.nextafter(lowest, -np.inf) == scores[0]
    assert np.isnan(just_above(scores, scores)).all()


@given(ranks(40), ranks(10), heights())
def test_a_p_value_counts_the_calibration_cases_that_are_no_more_familiar(
    calibration, images, steps
):
    found = conformal_p_values(steps[images], np.sort(steps[calibration]))
    expected = [(1 + int((calibration <= i).sum())) / (len(calibration) + 1) for i in images]
    assert found.tolist() == expected


@given(st.integers(5, 60), st.integers(0, 4), generators())
def test_p_values_of_exchangeable_images_are_valid(cases, tied, random):
    drawn = random.integers(10**tied, size=cases) / 1.0
    p_values = np.array([
        conformal_p_values(drawn[[at]], np.sort(np.delete(drawn, at)))[0] for at in range(cases)
    ])  # fmt: skip
    for share in np.unique(p_values):
        assert (p_values <= share).mean() <= share + 1e-12
