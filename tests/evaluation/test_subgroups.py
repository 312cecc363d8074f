"""Laws of the audit of subgroups: counts that add up, exact intervals, careful naming."""

from math import comb, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import columns, orders

from misgiving.evaluation.subgroups import audit, banded

FATES = 4  # accepted and right, accepted and wrong, deferred, ood
drawn_cases = columns(FATES, 3, 2, size=20)
confidences = st.lists(st.floats(0.5, 0.999), min_size=2, max_size=2).map(sorted)


def audited(drawn, confidence=0.95):
    fates, ages, sexes = drawn
    named = {"age": [f"age {age}" for age in ages], "sex": [["", "female"][sex] for sex in sexes]}
    return audit(named, fates < 2, fates == 3, fates == 1, confidence=confidence)


@given(drawn_cases)
def test_the_values_of_a_column_partition_the_cases(drawn):
    fates = drawn[0]
    found = audited(drawn)
    for name in ("age", "sex"):
        rows = [row for row in found if row.name == name]
        for field, fate in (("accepted", fates < 2), ("errors", fates == 1),
                            ("deferred", fates == 2), ("cases", fates >= 0)):  # fmt: skip
            assert sum(getattr(row, field) for row in rows) == fate.sum()
    assert {row.value for row in found if row.name == "sex"} <= {"unknown", "female"}


@given(drawn_cases, st.floats(0.5, 0.999))
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


@given(drawn_cases, confidences)
def test_what_is_named_worse_with_more_confidence_is_named_with_less(drawn, both):
    for careless, careful in zip(*(audited(drawn, level) for level in both), strict=True):
        assert set(careful.worse) <= set(careless.worse)
        assert careful.coverage_lower <= careless.coverage_lower


@given(drawn_cases, st.data())
def test_the_order_of_cases_changes_nothing(drawn, data):
    order = data.draw(orders(len(drawn[0])))
    shuffled = audited([column[order] for column in drawn])
    np.testing.assert_equal(shuffled, audited(drawn))


def cases(seed, count=60):
    """Three skin tones, the darkest of which fares worse the larger the seed."""
    random = np.random.default_rng(seed)
    tone = random.choice(["dark", "light", "medium"], size=count)
    fate = random.random(count) + 0.1 * seed * (tone == "dark")
    accepted, ood = fate < 0.6, (fate >= 0.6) & (fate < 0.7)
    wrong = random.random(count) < 0.1 + 0.12 * seed * (tone == "dark")
    columns = {"tone": tone.tolist(), "sex": random.choice(["female", "male", ""], count).tolist()}
    return columns, accepted, ood, wrong


def counted(columns, accepted, ood, wrong):
    """By (column, value): cases, accepted, errors and deferred, one case after the other."""
    table = {}
    for name, column in columns.items():
        for value, taken, alien, error in zip(column, accepted, ood, wrong, strict=True):
            row = table.setdefault((name, value or "unknown"), [0, 0, 0, 0])
            row[0] += 1
            row[1] += bool(taken)
            row[2] += bool(taken and error)
            row[3] += bool(not taken and not alien)
    return table


def pairs_of(row):
    total, accepted, errors, deferred = row
    return {
        "coverage": (accepted, total),
        "error": (errors, accepted),
        "deferral": (deferred, total),
    }


def hypergeometric_tail(group, rest, *, fewer):
    """P of a table at least as extreme as this one with the same margins, summed term by term."""
    (events, of), (others, of_rest) = group, rest
    drawn = events + others
    return sum(
        comb(of, k) * comb(of_rest, drawn - k) / comb(of + of_rest, drawn)
        for k in range(max(0, drawn - of_rest), min(of, drawn) + 1)
        if (k <= events if fewer else k >= events)
    )


def brute_force_worse(table, level):
    pvalues = {}
    for (name, value), row in table.items():
        column = [other for (of, _), other in table.items() if of == name]
        rest = [
            total - own for total, own in zip(np.sum(column, axis=0).tolist(), row, strict=True)
        ]
        for quantity in ("coverage", "error", "deferral"):
            group, others = pairs_of(row)[quantity], pairs_of(rest)[quantity]
            if group[1] and others[1]:
                tail = hypergeometric_tail(group, others, fewer=quantity == "coverage")
                pvalues[name, value, quantity] = tail
    worse = set()
    for rank, (key, pvalue) in enumerate(sorted(pvalues.items(), key=lambda item: item[1])):
        if pvalue > level / (len(pvalues) - rank):
            break
        worse.add(key)
    return worse


def named_worse(found):
    return {(group.name, group.value, quantity) for group in found for quantity in group.worse}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("level", [0.5, 0.05])
def test_counts_are_those_of_a_loop_and_a_group_fares_worse_where_exact_tails_say_so(seed, level):
    found, expected = audit(*cases(seed), level=level), counted(*cases(seed))
    assert {
        (group.name, group.value): [group.cases, group.accepted, group.errors, group.deferred]
        for group in found
    } == expected
    assert named_worse(found) == brute_force_worse(expected, level)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 40), st.integers(0, 40))
def test_one_of_two_groups_is_named_where_exact_tails_say_so(young, old, few, more):
    ages = {"age": ["young"] * young + ["old"] * old}
    accepted = np.concatenate([np.arange(young) < few, np.arange(old) < more])
    decided = ages, accepted, ~accepted, accepted & False
    assert named_worse(audit(*decided)) == brute_force_worse(counted(*decided), 0.05)


def test_other_columns_make_the_tests_stricter():
    accepted = np.arange(40) >= 5  # in one half 15 of 20, in the other all: p is 0.0236 twice
    decisions = accepted, accepted & False, accepted & False
    columns = {"site": ["a"] * 20 + ["b"] * 20, "sex": ["f", "m"] * 20, "age": ["y", "o"] * 20}
    alone, *_ = audit({"site": columns["site"]}, *decisions, level=0.2)
    together, *_ = audit(columns, *decisions, level=0.2)
    assert alone.worse == ("coverage", "deferral")
    assert together.worse == ()


def test_groups_of_ood_or_deferred_cases_alone():
    no, yes = np.zeros(30, dtype=bool), np.ones(30, dtype=bool)
    (group,) = audit({"site": ["a"] * 30}, no, yes, no)
    assert (group.cases, group.accepted, group.deferred) == (30, 0, 0)
    (group,) = audit({"site": ["a"] * 30}, no, no, yes, level=0.99)
    assert (group.errors, group.worse) == (0, ())  # compared with nothing
    assert all(map(isnan, (group.error, group.error_lower, group.error_upper)))


def test_groups_are_sorted_by_column_and_value_and_a_blank_is_unknown():
    no = np.zeros(3, dtype=bool)
    found = audit({"sex": ["m", " ", "f"], "age": ["", "", ""]}, no, no, no)
    assert [(group.name, group.value) for group in found] == [
        ("sex", "f"),
        ("sex", "m"),
        ("sex", "unknown"),
        ("age", "unknown"),
    ]


def test_few_groups_are_named_when_all_fare_alike():
    random = np.random.default_rng(0)
    named = 0
    for _ in range(100):
        tone = random.choice(["dark", "light", "medium"], size=50).tolist()
        accepted, wrong = random.random(50) < 0.6, random.random(50) < 0.3
        found = audit({"tone": tone}, accepted, np.zeros(50, dtype=bool), wrong)
        named += any(group.worse for group in found)
    assert named <= 8  # 5 are expected at most; the test is conservative


HUNDRED = [str(number) for number in range(100)]


def test_an_age_is_in_one_band():
    ages = ["0", "29.9", "30", "69", "70", "", "nan", "old"]
    bands = ("under 30", "under 30", "30-49", "50-69", "70 or older", "", "", "")
    assert banded("age", ages) == bands


@pytest.mark.parametrize(
    ("numbers", "counts"),
    [
        (
            HUNDRED,
            {"below 25": 25, "25 to below 50": 25, "50 to below 75": 25, "75 or more": 25},
        ),
        (["0.5"] * 60 + HUNDRED[1:41], {"0.5 to below 16": 75, "16 or more": 25}),
    ],
)
def test_a_column_of_many_numbers_becomes_quarters_and_one_of_names_is_no_group(numbers, counts):
    bands = banded("size", numbers)
    assert {band: bands.count(band) for band in bands} == counts
    assert banded("name", [f"patient {number}" for number in numbers]) == ()
