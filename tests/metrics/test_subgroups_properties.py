"""Laws of the audit of subgroups: counts that add up, exact intervals, careful naming."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import columns, orders

from misgiving.metrics.subgroups import audit

FATES = 4  # accepted and right, accepted and wrong, deferred, ood
cases = columns(FATES, 3, 2, size=20)
confidences = st.lists(st.floats(0.5, 0.999), min_size=2, max_size=2).map(sorted)


def audited(drawn, confidence=0.95):
    fates, ages, sexes = drawn
    named = {"age": [f"age {age}" for age in ages], "sex": [["", "female"][sex] for sex in sexes]}
    return audit(named, fates < 2, fates == 3, fates == 1, confidence=confidence)


@given(cases)
def test_the_values_of_a_column_partition_the_cases(drawn):
    fates = drawn[0]
    found = audited(drawn)
    for name in ("age", "sex"):
        rows = [row for row in found if row.name == name]
        for field, fate in (("accepted", fates < 2), ("errors", fates == 1),
                            ("deferred", fates == 2), ("cases", fates >= 0)):  # fmt: skip
            assert sum(getattr(row, field) for row in rows) == fate.sum()
    assert {row.value for row in found if row.name == "sex"} <= {"unknown", "female"}


@given(cases, st.floats(0.5, 0.999))
def test_the_intervals_are_exact_in_both_tails(drawn, confidence):
    tail = (1 - confidence) / 2
    for row in audited(drawn, confidence):
        for events, of, lower, upper in (
            (row.accepted, row.cases, row.coverage_lower, row.coverage_upper),
            (row.errors, row.accepted, row.error_lower, row.error_upper),
            (row.deferred, row.cases, row.deferral_lower, row.deferral_upper),
        ):
            if events:
                assert stats.binom.sf(events - 1, of, lower) == pytest.approx(tail)
            if events < of:
                assert stats.binom.cdf(events, of, upper) == pytest.approx(tail)
            assert np.isnan(lower) if not of else 0 <= lower <= events / of <= upper <= 1


@given(cases, confidences)
def test_what_is_named_worse_with_more_confidence_is_named_with_less(drawn, both):
    for careless, careful in zip(*(audited(drawn, level) for level in both), strict=True):
        assert set(careful.worse) <= set(careless.worse)
        assert careful.coverage_lower <= careless.coverage_lower


@given(cases, st.data())
def test_the_order_of_cases_changes_nothing(drawn, data):
    order = data.draw(orders(len(drawn[0])))
    shuffled = audited([column[order] for column in drawn])
    np.testing.assert_equal(shuffled, audited(drawn))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_group_is_named_when_its_one_sided_p_value_passes_the_holm_test(of, rest, few, more):
    accepted = (min(few, of), min(more, rest))
    named = ["young"] * of + ["old"] * rest
    mask = np.concatenate([np.arange(of) < accepted[0], np.arange(rest) < accepted[1]])
    found = {row.value: row for row in audit({"age": named}, mask, ~mask, mask & False)}
    tests = {}
    for value, mine, size in (("young", accepted[0], of), ("old", accepted[1], rest)):
        tests[value, "coverage"] = stats.hypergeom.cdf(mine, of + rest, sum(accepted), size)
        tests[value, "deferral"] = 1.0
    if all(accepted):
        tests |= {("young", "error"): 1.0, ("old", "error"): 1.0}
    for value in ("young", "old"):
        named_worse = tests[value, "coverage"] * len(tests) <= 0.05
        assert found[value].worse == (("coverage",) if named_worse else ())
