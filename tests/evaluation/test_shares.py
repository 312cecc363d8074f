"""Shares with intervals, risk over coverage, reliability and separation against oracles."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import beta, binomtest
from sklearn.metrics import roc_auc_score

from misgiving.evaluation.shares import (
    reliability_with_intervals,
    risk_over_coverage,
    separation,
    shares,
)


def answers(count=120, seed=0):
    """Scores and probabilities that say something of correctness, and wrong answers."""
    random = np.random.default_rng(seed)
    wrong = random.random(count) < 0.4
    scores = random.normal(size=count).round(1) - wrong
    return scores, random.uniform(0.3, 1, size=count).round(2), wrong


def exact(events, cases):
    ends = binomtest(events, cases).proportion_ci(0.95, method="exact")
    return pytest.approx((ends.low, ends.high), abs=1e-9)


def test_shares_of_single_images_have_the_exact_interval():
    scores, _, wrong = answers()
    accepted = scores > 0
    first, second = shares([(wrong, accepted), (accepted, ~accepted)], np.arange(120))
    events = sum(is_wrong and taken for is_wrong, taken in zip(wrong, accepted, strict=True))
    assert first[:2] == (events, accepted.sum())
    assert first[2:] == exact(events, int(accepted.sum()))
    assert second[0] == 0
    assert second[2:] == exact(0, int((~accepted).sum()))


def grouped(sizes, *, rate, together, seed=1):
    """Groups by name, and wrong images that in some groups are wrong all together or not at all."""
    random = np.random.default_rng(seed)
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    wrong = random.random(len(groups)) < rate
    of_groups = np.repeat(random.random(len(sizes)) < rate, sizes)
    tied = np.repeat(random.random(len(sizes)) < together, sizes)
    return np.where(tied, of_groups, wrong), groups


@pytest.mark.parametrize("one_of_each", [False, True])
def test_shares_of_groups_have_the_interval_of_korn_and_graubard(one_of_each):
    sizes = np.random.default_rng(1).integers(1, 7, size=50)
    wrong, groups = grouped(sizes, rate=0.4, together=0.9)
    (result,) = shares([(wrong, np.ones(len(wrong), bool))], groups, one_of_each=one_of_each)
    events, cases = dict.fromkeys(groups, 0.0), dict.fromkeys(groups, 0.0)
    for event, group in zip(wrong, groups, strict=True):
        weight = 1 / groups.count(group) if one_of_each else 1
        events[group] += weight * event
        cases[group] += weight
    total = sum(cases.values())
    share = sum(events.values()) / total
    variance = sum((events[g] - share * cases[g]) ** 2 for g in events) / total**2
    effect = variance / (share * (1 - share) / total)
    n = min(total / effect, len(events))
    assert (n < 49) != one_of_each  # for one of each the limit of 50 groups binds
    x = share * n
    expected = beta.ppf(0.025, x, n - x + 1), beta.ppf(0.975, x + 1, n - x)
    assert result.value == pytest.approx(share)
    assert result[2:] == pytest.approx(expected, abs=1e-9)


def test_groups_of_one_size_that_are_wrong_together_have_the_exact_interval_of_groups():
    wrong, groups = grouped([4] * 30, rate=0.2, together=1.0)
    (share,) = shares([(wrong, np.ones(120, bool))], groups)
    assert share[2:] == exact(int(wrong[::4].sum()), 30)


def test_one_pair_of_images_hardly_changes_the_interval_of_a_rare_error():
    wrong, groups = np.arange(101) == 5, np.minimum(np.arange(101), 99)
    (share,) = shares([(wrong, np.ones(101, bool))], groups)
    single = binomtest(1, 101).proportion_ci(0.95, method="exact")
    assert share[2:] == pytest.approx((single.low, single.high), abs=1e-3)


@pytest.mark.parametrize(
    ("sizes", "rate", "together"),
    [([2] + [1] * 99, 0.05, 1.0), ([2] * 60, 0.05, 0.5), ([1, 2, 3] * 40, 0.03, 0.7)],
)
def test_the_true_share_lies_beyond_each_end_as_rarely_as_stated(sizes, rate, together):
    columns = [grouped(sizes, rate=rate, together=together, seed=seed) for seed in range(1000)]
    everything = np.ones(sum(sizes), dtype=bool)
    results = shares([(wrong, everything) for wrong, _ in columns], columns[0][1])
    assert np.mean([share.upper < rate for share in results]) <= 0.03
    assert np.mean([share.lower > rate for share in results]) <= 0.03
    assert np.mean([share.upper - share.lower for share in results]) < 4.5 * np.sqrt(rate / 60)


def test_a_wrong_image_never_lowers_the_upper_limit():
    groups, everything = np.arange(600) // 10, np.ones(600, dtype=bool)
    results = shares([(np.arange(600) < wrong, everything) for wrong in range(40)], groups)
    assert all(a.upper < b.upper for a, b in pairwise(results))


def test_no_event_in_any_group_counts_groups_and_not_images():
    groups = [str(row // 4) for row in range(40)]
    nothing, everything = np.zeros(40, dtype=bool), np.ones(40, dtype=bool)
    results = shares([(nothing, everything), (everything, everything)], groups)
    assert results[0][2:] == exact(0, 10)
    assert results[1][2:] == exact(10, 10)
    (single,) = shares([(everything, everything)], ["a"] * 40)
    assert np.isnan(single[2:]).all()
    (empty,) = shares([(everything, nothing)], groups)
    assert np.isnan([empty.value, *empty[2:]]).all()


def test_each_point_of_the_curve_counts_what_its_threshold_accepts():
    scores, _, wrong = answers()
    scores[0] = np.nan
    points = risk_over_coverage(scores, wrong, np.arange(120))
    for point in points:
        taken = [
            is_wrong
            for is_wrong, score in zip(wrong, scores, strict=True)
            if (score >= point.threshold) or point.threshold == -np.inf
        ]
        assert point.coverage == pytest.approx(len(taken) / 120)
        assert point.error[:2] == (sum(taken), len(taken))
        assert point.error[2:] == exact(sum(taken), len(taken))
    assert points[-1].coverage == 1
    assert len(points) > 15
    assert all(a.coverage < b.coverage for a, b in pairwise(points))


def test_each_bin_of_reliability_counts_its_own_images():
    _, probabilities, wrong = answers()
    probabilities[0] = np.nan
    bins, observed = reliability_with_intervals(probabilities, wrong, np.arange(120))
    rows = sorted(zip(probabilities[1:], ~wrong[1:], strict=True), key=lambda row: row[0])
    assert sum(share.cases for share in observed) == 119
    for predicted, share in zip(bins.predicted, observed, strict=True):
        members, rows = rows[: int(share.cases)], rows[int(share.cases) :]
        assert predicted == pytest.approx(sum(row[0] for row in members) / len(members))
        assert share.events == sum(row[1] for row in members)
        assert share[2:] == exact(int(share.events), int(share.cases))


def test_the_separation_of_ood_images_is_that_of_scikit_learn():
    random = np.random.default_rng(2)
    inside, outside = random.normal(1, 1, size=200), random.normal(0, 1, size=80)
    auroc, fpr = separation((inside, outside), (np.arange(200), np.arange(80)), seed=0)
    labels = np.repeat([1, 0], [200, 80])
    assert auroc.value == pytest.approx(roc_auc_score(labels, np.r_[inside, outside]))
    drawn = [
        roc_auc_score(labels, np.r_[random.choice(inside, 200), random.choice(outside, 80)])
        for _ in range(500)
    ]
    assert auroc[1:] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)
    accepted = sorted(inside)[10]  # 190 of 200 are at least this
    assert fpr == pytest.approx((outside >= accepted).mean())


@pytest.mark.parametrize(
    ("outside", "units"),
    [
        ([0.5], [0]),
        ([0.5, 0.1], [0, 0]),  # one group
        ([-9.0, -8.0, -7.0], [0, 1, 2]),  # separated completely: nothing varies
    ],
)
def test_without_variation_or_with_one_group_a_separation_has_no_interval(outside, units):
    inside = np.linspace(0.2, 2, 20)
    sides = (inside, np.array(outside)), (np.arange(20), np.array(units))
    auroc, _ = separation(*sides, seed=0)
    assert auroc.value == pytest.approx(
        np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside])
    )
    assert np.isnan(auroc[1:]).all()
    nothing = np.array([np.nan])  # nor is there one without a finite score
    auroc, fpr = separation((nothing, nothing), (np.zeros(1), np.zeros(1)), seed=0)
    assert np.isnan([*auroc, fpr]).all()
