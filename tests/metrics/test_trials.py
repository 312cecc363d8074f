import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from misgiving.errors import UsageError
from misgiving.metrics.trials import holm, t_interval


def test_an_interval_of_independent_trials_is_that_of_scipy():
    values = [0.02, -0.01, 0.05, 0.03, 0.015]
    expected = ttest_1samp(values, 0.0)
    ends = expected.confidence_interval(0.9)
    found = t_interval(values, level=0.9)
    assert found.mean == pytest.approx(np.mean(values))
    assert (found.lower, found.upper) == pytest.approx((ends.low, ends.high))
    assert found.p_value == pytest.approx(expected.pvalue)


def test_redrawn_splits_widen_the_interval_as_nadeau_and_bengio_say():
    values, ratio = [0.1, 0.2, 0.4], 0.25
    variance = sum((value - 0.7 / 3) ** 2 for value in values) / 2
    margin = 4.302652729749464 * math.sqrt(variance * (1 / 3 + ratio))  # t of 2 degrees, 97.5 %
    found = t_interval(values, split_ratio=ratio)
    assert found.upper - found.mean == pytest.approx(margin)
    assert found.mean - found.lower == pytest.approx(margin)


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
