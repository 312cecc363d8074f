from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from misgiving.deferral.bounds import tolerance_rank, two_sided_interval, upper_bound
from misgiving.deferral.expected_performance import bound_at_threshold
from misgiving.deferral.guarantees import Confident
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import (
    ScoredCases,
    count_ranks,
    loosest_certified,
    meets_other_targets,
)


@pytest.mark.parametrize(("count", "cases"), [(0, 7), (7, 7), (3, 40), (1, 1)])
def test_two_sided_intervals_are_those_of_scipy(count, cases):
    expected = stats.binomtest(count, cases).proportion_ci(0.95, method="exact")
    assert two_sided_interval(count, cases, level=0.05) == pytest.approx(
        (expected.low, expected.high)
    )


@pytest.mark.parametrize(("count", "cases"), [(0.3, 7.5), (7.2, 7.5), (3.5, 40.25)])
def test_effective_numbers_have_the_quantiles_of_beta_distributions(count, cases):
    low, high = two_sided_interval(count, cases, level=0.05)
    assert stats.beta.cdf(low, count, cases - count + 1) == pytest.approx(0.025)
    assert stats.beta.sf(high, count + 1, cases - count) == pytest.approx(0.025)


def test_a_tiny_level_loses_no_digits():
    bound = float(upper_bound(3, 100, level=1e-13))
    assert stats.binom.cdf(3, 100, bound) == pytest.approx(1e-13, rel=1e-6)


def every_count(cells, cases):
    """All ways to distribute the cases over the cells."""
    for bars in combinations(range(cases + cells - 1), cells - 1):
        yield np.diff([-1, *bars, cases + cells - 1]) - 1


def chances(counts, probabilities):
    """Multinomial probability of each row of counts."""
    return stats.multinomial.pmf(counts, counts[0].sum(), probabilities)


def drawn_of(cells, counts, ood_scores=None):
    """Cases of each cell, a score and whether they are wrong; all of the first class."""
    scores, wrong = np.repeat(np.array(cells), counts, axis=0).T
    return ScoredCases(
        scores=scores,
        ood_scores=np.zeros(len(scores)) if ood_scores is None else np.repeat(ood_scores, counts),
        error_probabilities=np.full(len(scores), 0.5),
        predicted=wrong.astype(int),
        labels=np.zeros(len(scores), dtype=int),
        acceptable=np.ones(len(scores), dtype=bool),
    )


def targets_of(**targets):
    return Targets(**{"simultaneous": False, "max_ood_false_alarms": None, **targets})


@pytest.mark.parametrize("risks", [(0.451, 0.451, 0.451), (0.2, 0.75, 0.5), (0.5, 0.48, 0.47)])
def test_no_threshold_is_certified_wrongly_more_often_than_the_level_allows(risks):
    """All sets of ten cases of three scores, so that most are tied."""
    shares, max_error = np.array([0.4, 0.3, 0.3]), 0.45
    right, wrong = shares * (1 - np.array(risks)), shares * np.array(risks)
    beyond = np.cumsum(wrong) > max_error * np.cumsum(shares)
    cells = [(score, is_wrong) for is_wrong in (0.0, 1.0) for score in (3.0, 2.0, 1.0)]
    targets = targets_of(max_error=max_error, confidence=0.7)
    counts = np.array(list(every_count(6, 10)))
    missed = np.zeros(len(counts), dtype=bool)
    for row, numbers in enumerate(counts):
        of_ranks = count_ranks(drawn_of(cells, numbers), targets, classes=("a",))
        position = loosest_certified([of_ranks], targets)[0]
        if position >= 0:
            accepted = sum(score >= of_ranks.thresholds[position] for score in (3.0, 2.0, 1.0))
            missed[row] = beyond[accepted - 1]
    assert 0.02 < chances(counts, [*right, *wrong]) @ missed <= 0.3


@pytest.mark.parametrize("target", ["class_max_miss", "max_silent_error"])
@pytest.mark.parametrize("risks", [(0.26, 0.05), (0.1, 0.18), (0.15, 0.15)])
def test_no_class_is_missed_above_its_target_more_often_than_the_level_allows(risks, target):
    rate, level, cases = 0.25, 0.2, 15
    limit = {target: {"a": rate} if target == "class_max_miss" else rate}
    targets = targets_of(max_error=0.99, confidence=1 - level, **limit)
    counts = np.array(list(every_count(3, cases)))
    missed = np.zeros(len(counts), dtype=bool)
    for row, numbers in enumerate(counts):
        drawn = drawn_of([(2.0, 1.0), (1.0, 1.0), (0.0, 0.0)], numbers)
        of_ranks = count_ranks(drawn, targets, classes=("a",))
        passed = meets_other_targets(of_ranks, targets) & ~np.isnan(of_ranks.thresholds)
        accepted = [score >= min(of_ranks.thresholds[passed], default=3.0) for score in (2.0, 1.0)]
        missed[row] = np.dot(accepted, risks) > rate
    assert 0.02 < chances(counts, [*risks, 1 - sum(risks)]) @ missed <= level


@pytest.mark.parametrize("shares", [(0.15, 0.05, 0.8), (0.25, 0.25, 0.5), (0.3, 0.1, 0.6)])
def test_few_are_called_ood_even_where_scores_are_tied(shares):
    rate, level, cases = 0.24, 0.2, 12
    rank = tolerance_rank(cases, rate=rate, level=level)
    counts = np.array(list(every_count(3, cases)))
    limits = [np.repeat([0.0, 1.0, 2.0], row)[rank - 1] for row in counts]
    below = np.array([sum(x for at, x in enumerate(shares) if at < limit) for limit in limits])
    assert chances(counts, shares) @ (below > rate) <= level


def test_the_error_above_a_limit_that_the_same_cases_set_is_certified_exactly():
    # Only familiar images (OOD score 1) can be wrong; all have the same score.
    cells, familiar, shares = [(0.0, 0.0), (0.0, 0.0), (0.0, 1.0)], [0.0, 1.0, 1.0], (0.6, 0.2, 0.2)
    targets = targets_of(max_error=0.45, confidence=0.8, max_ood_false_alarms=0.25)
    rank = Confident().ood_rank(12, targets)
    counts = np.array(list(every_count(len(cells), 12)))
    # half of the images above a limit of 0 are wrong; above 1 there are none
    is_missed = np.zeros(len(counts), dtype=bool)
    for row, numbers in enumerate(counts):
        drawn = drawn_of(cells, numbers, familiar)
        limit = np.sort(drawn.ood_scores)[rank - 1].item()
        of_ranks = count_ranks(drawn, targets, classes=("a",), ood_limit=limit)
        is_missed[row] = loosest_certified([of_ranks], targets)[0] >= 0 and limit == 0
    assert 0.01 < chances(counts, shares) @ is_missed <= 0.2


def test_the_bound_at_a_threshold_is_that_of_the_looser_rank_over_the_share_of_the_stricter():
    random = np.random.default_rng(0)
    scores = random.integers(0, 9, 400) / 10  # with ties, of which the wrong cases come first
    wrong, ranks = random.random(400) < 0.1, np.array([150, 220, 400])
    best = sorted(zip(-scores, ~wrong, strict=True))
    for threshold, j, k in ((0.45, 150, 220), (0.15, 220, 400), (-1.0, 220, 400)):
        assert j < sum(score >= threshold for score in scores) <= k
        mistaken = sum(not right for _, right in best[:k])
        errors = stats.beta.isf(0.8 * 0.1 / 3, mistaken + 1, k - mistaken)
        share = stats.beta.ppf(0.2 * 0.1 / 3, j, k - j + 1)
        bound = bound_at_threshold(threshold, scores, wrong, ranks, level=0.1)
        assert bound == pytest.approx(errors / share) != 1
    assert bound_at_threshold(0.85, scores, wrong, ranks, level=0.1) == 1


@pytest.mark.parametrize("values", [None, 8], ids=["continuous", "tied"])
def test_a_bound_is_seldom_exceeded_at_any_threshold_even_if_the_best_are_wrong(values):
    """Half of those that score above 0.75 are wrong, and no others."""
    random, ranks, exceeded = np.random.default_rng(1), np.array([10, 20]), 0
    tried = np.arange(1, 40) / 40 if values is None else np.arange(1, values) / values
    errors = np.minimum(0.5, 0.125 / (1 - tried))
    for _ in range(400):
        scores = random.random(20)
        wrong = (scores > 0.75) & (random.random(20) < 0.5)
        scores = scores if values is None else np.floor(values * scores) / values
        bounds = [bound_at_threshold(at, scores, wrong, ranks, level=0.1) for at in tried.tolist()]
        exceeded += (errors > np.array(bounds) + 1e-9).any()
    assert exceeded <= 60  # 40 are expected at most
