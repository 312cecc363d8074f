"""Laws of intervals and of the bootstrap over groups."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import columns, orders, ranks

from misgiving.metrics.bootstrap import bootstrap, percentile_interval

REPLICATES = 40
seeds = st.integers(0, 2**32 - 1)
levels = st.floats(0.01, 0.99)
grouped = columns(20, 4)  # values, and the group of each


def mean_of(values):
    def statistic(weights):
        return {"mean": weights @ values / weights.sum(axis=-1)}

    return statistic


def weights_of(groups, seed):
    """Blocks of weights that a statistic of one trial is given."""
    blocks = []

    def statistic(weights):
        blocks.append(weights)
        return {"zero": np.zeros(len(weights))}

    bootstrap([statistic], [(groups,)], replicates=REPLICATES, seed=seed)
    return blocks


def replicates_of_mean(values, groups, seed):
    drawn = bootstrap([mean_of(values / 4)], [(groups,)], replicates=REPLICATES, seed=seed)
    return drawn["mean"]


@given(ranks(30), st.lists(levels, min_size=2, max_size=2).map(sorted))
def test_a_wider_level_holds_the_narrower_interval_and_both_the_median(values, both):
    inner, outer = (percentile_interval(values / 4, level=level) for level in both)
    assert outer.lower <= inner.lower <= np.median(values / 4) <= inner.upper <= outer.upper


@given(ranks(30), levels)
def test_an_interval_holds_its_level_of_the_replicates(values, level):
    found = percentile_interval(values / 4, level=level)
    for outside in (values / 4 < found.lower, values / 4 > found.upper):
        assert outside.sum() <= (1 - level) / 2 * (len(values) - 1) + 1 + 1e-9
    assert values.min() / 4 <= found.lower <= found.upper <= values.max() / 4


@given(ranks(30), levels, st.data())
def test_neither_order_nor_undefined_replicates_change_an_interval(values, level, data):
    order = data.draw(orders(len(values)))
    with_gaps = np.r_[np.nan, values[order] / 4, np.nan]
    assert percentile_interval(with_gaps, level=level) == percentile_interval(
        values / 4, level=level
    )


@given(ranks(30), levels)
def test_negating_the_values_mirrors_an_interval(values, level):
    found, turned = (
        percentile_interval(values / 4, level=level),
        percentile_interval(-values / 4, level=level),
    )
    np.testing.assert_allclose(turned, (-found.upper, -found.lower), atol=1e-12)


@given(columns(4, size=20), seeds)
def test_every_set_has_as_many_groups_as_there_are_each_drawn_whole(drawn, seed):
    (groups,) = drawn
    (counts,) = weights_of(groups, seed)
    of_group = np.stack([counts[:, np.argmax(groups == name)] for name in np.unique(groups)])
    assert (of_group.sum(axis=0) == len(of_group)).all()
    for name, count in zip(np.unique(groups), of_group, strict=True):
        assert (counts[:, groups == name] == count[:, None]).all()


@given(columns(20), seeds)
def test_with_a_single_group_every_replicate_equals_the_estimate(drawn, seed):
    (values,) = drawn
    found = replicates_of_mean(values, np.zeros(len(values), dtype=int), seed)
    np.testing.assert_allclose(found, values.mean() / 4, rtol=1e-12)
    np.testing.assert_allclose(percentile_interval(found), values.mean() / 4, rtol=1e-12)


@given(grouped, seeds)
def test_a_mean_and_its_interval_lie_between_the_means_of_the_groups(drawn, seed):
    values, groups = drawn
    means = [values[groups == name].mean() / 4 for name in set(groups.tolist())]
    found = replicates_of_mean(values, groups, seed)
    assert min(means) - 1e-12 <= found.min() <= found.max() <= max(means) + 1e-12


@given(grouped, seeds, st.data())
def test_neither_the_order_of_samples_nor_the_names_of_groups_change_the_replicates(
    drawn, seed, data
):
    values, groups = drawn
    order = data.draw(orders(len(values)))
    names = np.array(["a", "bb", "b~", "c"])  # in the order of the numbers
    found = replicates_of_mean(values[order], names[groups[order]], seed)
    np.testing.assert_allclose(found, replicates_of_mean(values, groups, seed), rtol=1e-12)


@given(grouped, seeds, st.integers(1, 3))
def test_trials_that_are_copies_of_one_leave_every_replicate_as_one_trial_has_it_in_range(
    drawn, seed, trials
):
    values, groups = drawn
    statistics, of_trials = [mean_of(values / 4)] * trials, [(groups,)] * trials
    found = bootstrap(statistics, of_trials, replicates=REPLICATES, seed=seed)["mean"]
    assert len(found) == REPLICATES
    assert values.min() / 4 - 1e-12 <= found.min() <= found.max() <= values.max() / 4 + 1e-12


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=4), seeds)
def test_the_mean_over_trials_lies_between_the_trials_and_is_one_of_theirs_for_one(of_trials, seed):
    statistics = [lambda weights, v=v: {"value": np.full(len(weights), v / 1.0)} for v in of_trials]
    groups = [(np.arange(3),)] * len(of_trials)
    found = bootstrap(statistics, groups, replicates=REPLICATES, seed=seed)["value"]
    assert min(of_trials) <= found.min() <= found.max() <= max(of_trials)
    steps = found * len(of_trials)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)  # a mean of so many draws
