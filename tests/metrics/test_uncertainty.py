"""Laws of intervals over trials, and of the bootstrap over trials and groups."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp
from strategies import columns, orders, ranks

from misgiving.errors import UsageError
from misgiving.metrics.uncertainty import bootstrap, holm, percentile_interval, t_interval

REPLICATES = 40
LESIONS = np.array(["b", "a", "b", "c", "a", "b"])
seeds = st.integers(0, 2**32 - 1)
levels = st.floats(0.01, 0.99)
grouped = columns(20, 4)  # values, and the group of each


def mean_of(values):
    def statistic(weights):
        return {"mean": weights @ values / weights.sum(axis=-1)}

    return statistic


def weights_of(*sets, replicates=REPLICATES, seed=0):
    """Blocks of weights, one for each set, that a statistic of one trial is given."""
    blocks = []

    def statistic(*weights):
        blocks.append(weights)
        return {"zero": np.zeros(len(weights[0]))}

    bootstrap([statistic], [sets], replicates=replicates, seed=seed)
    return blocks


def replicates_of_mean(values, groups, seed, trials=1):
    statistics, of_trials = [mean_of(values / 4)] * trials, [(groups,)] * trials
    return bootstrap(statistics, of_trials, replicates=REPLICATES, seed=seed)["mean"]


@given(ranks(30), levels, st.data())
def test_an_interval_ends_at_interpolated_percentiles_of_the_defined_replicates(
    values, level, data
):
    order, sorted_values = data.draw(orders(len(values))), sorted(values / 4)
    expected = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        place = share * (len(values) - 1)
        below, above = sorted_values[int(place)], sorted_values[math.ceil(place)]
        expected.append(below + (place - int(place)) * (above - below))
    replicates = np.r_[np.nan, values[order] / 4, np.nan]
    interval = percentile_interval(replicates, level=level)
    assert interval == pytest.approx(expected, abs=1e-9)
    assert np.isnan(percentile_interval(replicates[[0, -1]])).all()


@given(columns(4, size=20), seeds)
def test_every_set_has_as_many_groups_as_there_are_each_drawn_whole(drawn, seed):
    (groups,) = drawn
    ((counts,),) = weights_of(groups, seed=seed)
    of_group = np.stack([counts[:, np.argmax(groups == name)] for name in np.unique(groups)])
    assert (of_group.sum(axis=0) == len(of_group)).all()
    for name, count in zip(np.unique(groups), of_group, strict=True):
        assert (counts[:, groups == name] == count[:, None]).all()


@given(grouped, seeds, st.integers(1, 3))
def test_a_mean_over_equal_trials_lies_between_the_means_of_the_groups(drawn, seed, trials):
    values, groups = drawn
    means = [values[groups == name].mean() / 4 for name in set(groups.tolist())]
    replicates = replicates_of_mean(values, groups, seed, trials)
    assert len(replicates) == REPLICATES
    assert min(means) - 1e-12 <= replicates.min() <= replicates.max() <= max(means) + 1e-12


@given(grouped, seeds, st.data())
def test_neither_the_order_of_samples_nor_the_names_of_groups_change_the_replicates(
    drawn, seed, data
):
    values, groups = drawn
    order = data.draw(orders(len(values)))
    names = np.array(["a", "bb", "b~", "c"])  # in the order of the numbers
    drawn = replicates_of_mean(values[order], names[groups[order]], seed)
    np.testing.assert_allclose(drawn, replicates_of_mean(values, groups, seed), rtol=1e-12)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=4), seeds)
def test_the_mean_over_trials_lies_between_the_trials_and_is_one_of_theirs_for_one(of_trials, seed):
    statistics = [lambda weights, v=v: {"value": np.full(len(weights), v / 1.0)} for v in of_trials]
    groups = [(np.arange(3),)] * len(of_trials)
    drawn = bootstrap(statistics, groups, replicates=REPLICATES, seed=seed)["value"]
    assert min(of_trials) <= drawn.min() <= drawn.max() <= max(of_trials)
    steps = drawn * len(of_trials)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)  # a mean of so many draws


def constant(value):
    return lambda weights: {"mean": np.full(len(weights), value)}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_the_number_of_times_a_group_is_drawn_is_binomial():
    blocks = weights_of(LESIONS, replicates=20_000)
    first = np.concatenate([counts for (counts,) in blocks])[:, 0]
    shares = [np.mean(first == k) for k in range(4)]
    np.testing.assert_allclose(shares, [8 / 27, 12 / 27, 6 / 27, 1 / 27], atol=0.015)


def test_models_are_resampled_alike_with_one_seed(random):
    trials = [random.normal(size=6) for _ in range(3)]

    def drawn(more, seed=5):
        statistics = [mean_of(values + more) for values in trials]
        return bootstrap(statistics, [(LESIONS,)] * 3, seed=seed)["mean"]

    assert (drawn(0) == drawn(0)).all()
    np.testing.assert_allclose(drawn(0.5) - drawn(0), 0.5, atol=1e-12)
    assert not np.array_equal(drawn(0), drawn(0, seed=6))


def test_an_undefined_slot_is_left_out_and_a_replicate_of_them_alone_is_undefined():
    drawn = bootstrap([constant(0.5), constant(np.nan)], [(LESIONS,)] * 2, seed=0)["mean"]
    assert set(drawn[~np.isnan(drawn)]) == {0.5}
    assert np.isnan(drawn).mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("trials", [1, 3])  # that share their images, which adds no certainty
def test_the_spread_of_a_mean_is_its_standard_error(random, trials):
    values, groups = random.normal(size=40), [(np.arange(40),)] * trials
    drawn = bootstrap([mean_of(values)] * trials, groups, replicates=5000, seed=1)["mean"]
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.05)


def test_photographing_every_lesion_three_times_adds_no_certainty(random):
    values = random.normal(size=10)
    once = bootstrap([mean_of(values)], [(np.arange(10),)], seed=1)["mean"]
    thrice = bootstrap([mean_of(np.tile(values, 3))], [(np.tile(np.arange(10), 3),)], seed=1)
    np.testing.assert_allclose(thrice["mean"], once, atol=1e-12)


def test_trials_vary_as_a_sample_of_them_does():
    trials = [constant(value) for value in (0.0, 1.0, 5.0)]
    drawn = bootstrap(trials, [(LESIONS,)] * 3, replicates=20_000, seed=0)["mean"]
    assert drawn.std() == pytest.approx(np.std([0.0, 1.0, 5.0]) / np.sqrt(3), rel=0.03)


def test_a_group_is_drawn_equally_often_in_every_trial_that_has_it():
    seen = {}

    def note(trial):
        def statistic(weights):
            seen[trial] = weights
            return {"mean": np.zeros(len(weights))}

        return statistic

    first, second = np.array(["a", "b", "c"]), np.array(["c", "d", "a"])
    bootstrap([note(0), note(1)], [(first,), (second,)], replicates=300, seed=0)
    slots = np.random.default_rng(0).integers(2, size=(300, 2))
    met = [(slots == trial).any(axis=1) for trial in range(2)]
    both = met[0] & met[1]
    in_first, in_second = seen[0][both[met[0]]], seen[1][both[met[1]]]
    np.testing.assert_array_equal(in_first[:, [0, 2]], in_second[:, [2, 0]])


def test_trials_of_other_images_together_are_as_certain_as_all_their_images(random):
    values = [random.normal(size=40) for _ in range(3)]
    centred = [mean_of(of_trial - of_trial.mean()) for of_trial in values]
    groups = [(np.arange(40) + 100 * trial,) for trial in range(3)]
    drawn = bootstrap(centred, groups, replicates=5000, seed=1)["mean"]
    # The trials drawn in a replicate repeat: 5/9 of the variance is that of one trial's mean.
    one = np.mean([of_trial.var() for of_trial in values]) / 40
    assert drawn.var() == pytest.approx(5 / 9 * one, rel=0.15)


def test_sets_of_samples_are_drawn_independently():
    (inliers, outliers), *_ = weights_of(np.arange(9), np.arange(9), replicates=500)
    assert abs(np.corrcoef(inliers[:, 0], outliers[:, 0])[0, 1]) < 0.15


def test_a_call_of_a_statistic_is_bounded_in_memory(monkeypatch):
    monkeypatch.setattr("misgiving.metrics.uncertainty.WEIGHTS_AT_ONCE", 60)
    sizes = []

    def statistic(weights):
        sizes.append(weights.size)
        return {"mean": np.arange(float(len(weights)))}

    drawn = bootstrap([statistic], [(LESIONS,)], replicates=25, seed=0)["mean"]
    assert sizes == [60, 60, 30]
    np.testing.assert_array_equal(drawn, np.r_[0:10, 0:10, 0:5])


def test_an_interval_of_independent_trials_is_that_of_scipy():
    values = [0.02, -0.01, 0.05, 0.03, 0.015]
    expected = ttest_1samp(values, 0.0)
    ends = expected.confidence_interval(0.9)
    interval = t_interval(values, level=0.9)
    assert interval.mean == pytest.approx(np.mean(values))
    assert (interval.lower, interval.upper) == pytest.approx((ends.low, ends.high))
    assert interval.p_value == pytest.approx(expected.pvalue)


def test_redrawn_splits_widen_the_interval_as_nadeau_and_bengio_say():
    values, ratio = [0.1, 0.2, 0.4], 0.25
    variance = sum((value - 0.7 / 3) ** 2 for value in values) / 2
    margin = 4.302652729749464 * math.sqrt(variance * (1 / 3 + ratio))  # t of 2 degrees, 97.5 %
    interval = t_interval(values, split_ratio=ratio)
    assert interval.upper - interval.mean == pytest.approx(margin)
    assert interval.mean - interval.lower == pytest.approx(margin)


@pytest.mark.parametrize("ratio", [0.0, 1 / 9])
def test_the_p_value_is_the_level_at_which_the_interval_ends_at_zero(ratio):
    values = [0.1, 0.2, 0.4, 0.15]
    p_value = t_interval(values, split_ratio=ratio).p_value
    assert t_interval(values, split_ratio=ratio, level=1 - p_value).lower == pytest.approx(0.0)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.3, 0.0)])
def test_equal_values_have_an_interval_of_no_width(value, p_value):
    assert t_interval([value] * 3) == (value, value, value, p_value)


def test_a_single_trial_is_refused():
    with pytest.raises(UsageError):
        t_interval([0.3])


def test_holm_rejects_step_by_step_until_the_first_test_that_fails():
    p_values, level = [0.012, 0.3, 0.01, 0.04, 0.02], 0.05
    remaining, rejected = sorted(p_values), []
    for number, p_value in enumerate(remaining):
        if p_value > level / (len(remaining) - number):
            break
        rejected.append(p_value)
    assert [p for p, q in zip(p_values, holm(p_values), strict=True) if q <= level] == [
        p for p in p_values if p in rejected
    ]
    assert len(rejected) == 2


def test_holm_keeps_the_order_of_the_tests_and_stays_at_most_one():
    assert holm([0.9, 0.001, 0.8]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []
