import numpy as np
import pytest

from misgiving.errors import UsageError
from misgiving.metrics.bootstrap import bootstrap, percentile_interval
from misgiving.metrics.ood import ood_metrics

LESIONS = np.array(["b", "a", "b", "c", "a", "b"])


def mean_of(values):
    def statistic(weights):
        return {"mean": weights @ values / weights.sum(axis=-1)}

    return statistic


def constant(value):
    return lambda weights: {"mean": np.full(len(weights), value)}


@pytest.fixture
def random():
    return np.random.default_rng(0)


def drawn_weights(groups, replicates):
    """Weights that a statistic of one trial is given."""
    drawn = []

    def statistic(weights):
        drawn.append(weights)
        return {"zero": np.zeros(len(weights))}

    bootstrap([statistic], [(groups,)], replicates=replicates, seed=0)
    return np.concatenate(drawn)


def test_samples_of_one_group_are_drawn_together():
    counts = drawn_weights(LESIONS, 50)
    for lesion in "abc":
        members = counts[:, np.isin(LESIONS, lesion)]
        assert (members == members[:, :1]).all()


def test_as_many_groups_are_drawn_as_there_are():
    firsts = [1, 0, 3]  # one sample of each lesion
    assert (drawn_weights(LESIONS, 50)[:, firsts].sum(axis=1) == 3).all()


def test_the_number_of_times_a_group_is_drawn_is_binomial():
    counts = drawn_weights(LESIONS, 20_000)
    shares = [np.mean(counts[:, 0] == k) for k in range(4)]
    np.testing.assert_allclose(shares, [8 / 27, 12 / 27, 6 / 27, 1 / 27], atol=0.015)


@pytest.mark.parametrize(
    "groups", [np.array([1.0, np.nan]), np.array(["a", None], dtype=object)], ids=["nan", "none"]
)
def test_a_missing_group_is_refused(groups):
    with pytest.raises(UsageError, match="groups has a missing value"):
        drawn_weights(groups, 2)


def test_no_groups_are_refused():
    with pytest.raises(UsageError, match="groups is empty"):
        drawn_weights(np.array([]), 2)


def test_the_spread_of_a_mean_is_its_standard_error(random):
    values = random.normal(size=40)
    drawn = bootstrap([mean_of(values)], [(np.arange(40),)], replicates=5000, seed=1)["mean"]
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.05)


def test_photographing_every_lesion_three_times_adds_no_certainty(random):
    values = random.normal(size=10)
    once = bootstrap([mean_of(values)], [(np.arange(10),)], seed=1)["mean"]
    thrice = bootstrap([mean_of(np.tile(values, 3))], [(np.tile(np.arange(10), 3),)], seed=1)
    np.testing.assert_allclose(thrice["mean"], once, atol=1e-12)


def test_the_difference_of_identical_models_is_exactly_zero(random):
    trials = [mean_of(random.normal(size=6)) for _ in range(3)]
    first = bootstrap(trials, [(LESIONS,)] * 3, seed=5)["mean"]
    second = bootstrap(trials, [(LESIONS,)] * 3, seed=5)["mean"]
    assert (first - second == 0).all()


def test_a_model_that_is_better_on_every_sample_is_better_in_every_replicate(random):
    trials = [random.normal(size=6) for _ in range(3)]
    worse = bootstrap([mean_of(values) for values in trials], [(LESIONS,)] * 3, seed=5)
    better = bootstrap([mean_of(values + 0.5) for values in trials], [(LESIONS,)] * 3, seed=5)
    np.testing.assert_allclose(better["mean"] - worse["mean"], 0.5, atol=1e-12)


def test_another_seed_draws_other_sets(random):
    statistic = mean_of(random.normal(size=6))
    first, second = (bootstrap([statistic], [(LESIONS,)], seed=seed)["mean"] for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_trials_vary_as_a_sample_of_them_does():
    trials = [constant(value) for value in (0.0, 1.0, 5.0)]
    drawn = bootstrap(trials, [(LESIONS,)] * 3, replicates=20_000, seed=0)["mean"]
    assert drawn.std() == pytest.approx(np.std([0.0, 1.0, 5.0]) / np.sqrt(3), rel=0.03)


def test_with_one_trial_only_groups_vary():
    drawn = bootstrap([constant(0.25)], [(LESIONS,)], replicates=10, seed=0)["mean"]
    np.testing.assert_array_equal(drawn, np.full(10, 0.25))


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


def test_trials_that_share_their_images_do_not_make_them_more_certain(random):
    values = random.normal(size=40)
    groups = [(np.arange(40),)] * 3
    drawn = bootstrap([mean_of(values)] * 3, groups, replicates=5000, seed=1)["mean"]
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(40), rel=0.05)


def test_trials_of_other_images_together_are_as_certain_as_all_their_images(random):
    values = [random.normal(size=40) for _ in range(3)]
    centred = [mean_of(of_trial - of_trial.mean()) for of_trial in values]
    groups = [(np.arange(40) + 100 * trial,) for trial in range(3)]
    drawn = bootstrap(centred, groups, replicates=5000, seed=1)["mean"]
    # The trials drawn in a replicate repeat: 5/9 of the variance is that of one trial's mean.
    one = np.mean([of_trial.var() for of_trial in values]) / 40
    assert drawn.var() == pytest.approx(5 / 9 * one, rel=0.15)


def test_an_undefined_slot_is_left_out_of_the_mean():
    drawn = bootstrap([constant(0.5), constant(np.nan)], [(LESIONS,)] * 2, seed=0)["mean"]
    assert set(drawn[~np.isnan(drawn)]) == {0.5}


def test_a_replicate_without_a_defined_slot_is_undefined():
    drawn = bootstrap([constant(0.5), constant(np.nan)], [(LESIONS,)] * 2, seed=0)["mean"]
    assert np.isnan(drawn).mean() == pytest.approx(0.25, abs=0.05)


def test_sets_of_samples_are_drawn_independently():
    sets = []

    def statistic(*weights):
        sets.append(weights)
        return {"mean": np.zeros(len(weights[0]))}

    bootstrap([statistic], [(np.arange(9), np.arange(9))], replicates=500, seed=0)
    inliers, outliers = sets[0]
    assert abs(np.corrcoef(inliers[:, 0], outliers[:, 0])[0, 1]) < 0.15


def test_all_measures_of_a_table_share_the_draws(random):
    inliers, outliers = random.normal(1, 1, size=20), random.normal(size=15)

    def both(of_inliers, of_outliers):
        return ood_metrics(
            inliers, outliers, inlier_weights=of_inliers, outlier_weights=of_outliers
        )

    def only_auroc(of_inliers, of_outliers):
        return {"auroc": both(of_inliers, of_outliers)["auroc"]}

    groups = [(np.arange(20), np.arange(15))]
    table, alone = (bootstrap([of], groups, replicates=30, seed=2) for of in (both, only_auroc))
    np.testing.assert_array_equal(table["auroc"], alone["auroc"])


def test_a_call_of_a_statistic_is_bounded_in_memory(monkeypatch):
    monkeypatch.setattr("misgiving.metrics.bootstrap.WEIGHTS_AT_ONCE", 60)
    sizes = []

    def statistic(weights):
        sizes.append(weights.size)
        return {"mean": np.arange(float(len(weights)))}

    drawn = bootstrap([statistic], [(LESIONS,)], replicates=25, seed=0)["mean"]
    assert sizes == [60, 60, 30]
    np.testing.assert_array_equal(drawn, np.r_[0:10, 0:10, 0:5])


def test_trials_that_measure_different_things_are_refused():
    def other(weights):
        return {"median": np.zeros(len(weights))}

    with pytest.raises(UsageError, match="measure the same in every trial"):
        bootstrap([constant(0.5), other], [(LESIONS,)] * 2, seed=0)


def test_a_statistic_without_one_value_per_replicate_is_refused():
    with pytest.raises(UsageError, match="one value for each replicate"):
        bootstrap([lambda _: {"mean": np.array(0.5)}], [(LESIONS,)], seed=0)


@pytest.mark.parametrize("count", [0, 2])
def test_groups_and_statistics_of_different_lengths_are_refused(count):
    with pytest.raises(UsageError, match=f"groups has {count} trials"):
        bootstrap([constant(0.5)] * (count and 1), [(LESIONS,)] * count, seed=0)


def test_no_replicates_are_refused():
    with pytest.raises(UsageError, match="replicates is 0"):
        bootstrap([constant(0.5)], [(LESIONS,)], replicates=0, seed=0)


def test_an_interval_of_normal_draws_has_the_normal_bounds(random):
    bounds = percentile_interval(random.normal(size=200_000))
    np.testing.assert_allclose(bounds, (-1.96, 1.96), atol=0.03)


def test_undefined_replicates_are_left_out_of_an_interval():
    values = np.arange(11.0)
    assert percentile_interval(np.r_[values, np.nan], level=0.8) == percentile_interval(
        values, level=0.8
    )


def test_an_interval_of_undefined_replicates_is_undefined():
    assert np.isnan(percentile_interval(np.full(3, np.nan))).all()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_level_that_is_not_a_probability_is_refused(level):
    with pytest.raises(UsageError, match="level is"):
        percentile_interval(np.arange(3.0), level=level)
