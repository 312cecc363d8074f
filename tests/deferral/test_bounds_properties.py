"""Laws of exact bounds and tests, recomputed as binomial sums in fractions."""

from fractions import Fraction
from math import comb

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from strategies import DISTINCT, columns, generators, heights, ranks

from misgiving.deferral.bounds import (
    binomial_cdf,
    conformal_p_values,
    kth_lowest,
    lower_bound,
    tolerance_rank,
    two_sided_interval,
    upper_bound,
)
from misgiving.deferral.thresholds import (
    candidate_thresholds,
    counts_by_threshold,
    fallback_procedure,
    fixed_sequence,
    starting_levels,
)

percents = st.integers(1, 99).map(lambda percent: Fraction(percent, 100))
levels = st.floats(1e-6, 0.5)


def in_order(values):
    return st.lists(values, min_size=2, max_size=2).map(sorted)


@st.composite
def counted(draw, most=60):
    """A number of events and the cases that could have had one."""
    cases = draw(st.integers(0, most))
    return draw(st.integers(0, cases)), cases


@st.composite
def nested(draw, thresholds=6, most=30):
    """Accepted and wrong cases at thresholds of which each accepts at least the stricter's."""
    added = draw(st.lists(counted(most), min_size=thresholds, max_size=thresholds))
    wrong, accepted = np.cumsum(np.array(added), axis=0).T
    return accepted, wrong


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


@given(counted(), in_order(levels))
def test_less_confidence_and_fewer_events_lower_the_upper_bound_and_the_others_are_complements(
    drawn, both
):
    count, cases = drawn
    careful, careless = (upper_bound(count, cases, level=level) for level in both)
    assert careless <= careful + 1e-12
    assert upper_bound(max(count - 1, 0), cases, level=both[0]) <= careful + 1e-12
    found, mirrored = (two_sided_interval(k, cases, level=both[0]) for k in (count, cases - count))
    np.testing.assert_allclose(mirrored, (1 - found.upper, 1 - found.lower), atol=1e-9)


@given(st.integers(1, 150), percents, percents)
def test_the_ood_rank_is_the_highest_whose_share_is_within_the_rate(cases, rate, level):
    rank = tolerance_rank(cases, rate=float(rate), level=float(level))
    # more than `rate` lies below the k-th lowest when fewer than k cases fall into that share
    failing = [at_most(k - 1, cases, rate) for k in (rank, rank + 1)]
    assume(abs(failing[1] - level) > Fraction(1, 10**12))  # rounding may decide such a draw
    assert rank == 0 or failing[0] <= level + Fraction(1, 10**12)
    assert rank == cases or failing[1] > level
    assert rank == 0 or stats.beta.sf(float(rate), rank, cases - rank + 1) <= float(level) + 1e-9


@given(st.integers(1, 150), in_order(percents), in_order(percents), st.integers(0, 20))
def test_the_ood_rank_rises_with_cases_and_rate_and_falls_with_the_confidence(
    cases, rates, chances, more
):
    loose = tolerance_rank(cases + more, rate=float(rates[1]), level=float(chances[1]))
    assert tolerance_rank(cases, rate=float(rates[0]), level=float(chances[0])) <= loose


def fallback(accepted, wrong, shares, max_error):
    """The thresholds that the fallback procedure rejects, in fractions."""
    rejected, carried = [], Fraction(0)
    for n, k, share in zip(accepted.tolist(), wrong.tolist(), shares, strict=True):
        carried += share
        p_value = at_most(k, n, max_error)
        assume(abs(p_value - carried) > Fraction(1, 10**12))
        rejected.append(p_value <= carried)
        carried = carried if rejected[-1] else Fraction(0)
    return rejected


@given(
    nested(most=6), nested(most=6), st.lists(st.integers(0, 30), min_size=6, max_size=6), percents
)
def test_certified_thresholds_are_those_of_the_fallback_procedure_in_fractions(
    first, second, starts, max_error
):
    shares = [Fraction(start, 100) for start in starts]
    expected = [fallback(*drawn, shares, max_error) for drawn in (first, second)]
    accepted, wrong = np.stack([first, second], axis=1)
    rejected = fallback_procedure(
        accepted, wrong, max_error=float(max_error), levels=np.array(shares, dtype=float)
    )
    assert rejected.tolist() == expected


six_levels = st.lists(st.floats(0, 0.2), min_size=6, max_size=6).map(np.array)


@given(nested(), six_levels, six_levels, in_order(percents), st.integers(0, 5))
def test_a_larger_target_higher_levels_and_one_error_less_certify_no_less(
    drawn, starts, more, errors, at
):
    accepted, wrong = drawn
    strict, loose = map(float, errors)
    worse = wrong + ((np.arange(6) >= at) & (wrong < accepted))
    certified = fallback_procedure(accepted, wrong, max_error=strict, levels=starts)
    for count, max_error, levels in ((wrong, loose, starts), (wrong, strict, starts + more)):
        more_certified = fallback_procedure(accepted, count, max_error=max_error, levels=levels)
        assert (certified <= more_certified).all()
    assert (fallback_procedure(accepted, worse, max_error=strict, levels=starts) <= certified).all()


@given(st.lists(st.integers(0, 9), min_size=6, max_size=6), st.integers(9, 60), percents, percents)
def test_a_fixed_sequence_selects_up_to_the_first_threshold_that_fails(missed, cases, rate, level):
    misses = np.array(missed)
    p_values = [at_most(k, cases, rate) for k in misses.tolist()]
    assume(all(abs(p - level) > Fraction(1, 10**12) for p in p_values))
    expected = [all(p <= level for p in p_values[: at + 1]) for at in range(6)]
    found = fixed_sequence(misses, cases, rate=float(rate), level=float(level))
    assert found.tolist() == expected


@given(ranks(80, least=2, distinct=70))
def test_candidate_thresholds_are_strictest_first_at_most_50_and_end_with_accepting_all(scores):
    thresholds = candidate_thresholds(scores / 4)
    assert 1 <= len(thresholds) <= 50
    assert (np.diff(thresholds) < 0).all()
    assert thresholds[-1] == -np.inf
    assert set(thresholds[:-1]) <= set((scores / 4).tolist())
    assert (thresholds[:-1] > scores.min() / 4).all()


@given(ranks(60, least=2), heights())
def test_candidate_thresholds_follow_a_strictly_increasing_map_of_the_score(scores, steps):
    plain, mapped = candidate_thresholds(scores / 1.0), candidate_thresholds(steps[scores])
    np.testing.assert_array_equal(mapped[:-1], steps[plain[:-1].astype(int)])


@given(columns(DISTINCT, 2, size=30), ranks(6, least=1))
def test_a_threshold_accepts_the_counted_cases_that_reach_it(drawn, steps):
    scores, counted = drawn[0] / 1.0, drawn[1] == 1
    thresholds = np.append(np.unique(steps / 1.0)[::-1], -np.inf)
    masks = np.stack([counted, ~counted])
    expected = [[int((mask & (scores >= t)).sum()) for t in thresholds] for mask in masks]
    assert counts_by_threshold(np.stack([scores, scores]), masks, thresholds).tolist() == expected
    assert counts_by_threshold(scores, counted, thresholds).tolist() == expected[0]


@given(nested(), st.integers(1, 300), percents, levels)
def test_starting_levels_are_shares_of_the_whole_level(drawn, cases, max_error, level):
    found = starting_levels(*drawn, cases=cases, max_error=float(max_error), level=level)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(), level)
    assert found.max() >= 0.8 * level


@given(ranks(40), st.data())
def test_the_limit_has_fewer_scores_below_than_its_rank_and_enough_up_to_it(scores, data):
    rank = data.draw(st.integers(1, len(scores)))
    limit = kth_lowest(scores / 4, rank)
    assert (scores / 4 < limit).sum() < rank <= (scores / 4 <= limit).sum()


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
