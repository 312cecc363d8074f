from math import comb, isnan

import numpy as np
import pytest
from scipy.stats import binomtest

from misgiving.errors import UsageError
from misgiving.metrics.subgroups import audit

QUANTITIES = ("coverage", "error", "deferral")


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
        for quantity in QUANTITIES:
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


@pytest.mark.parametrize("seed", range(8))
def test_the_counts_are_those_of_a_loop_over_the_cases(seed):
    found = {
        (group.name, group.value): [group.cases, group.accepted, group.errors, group.deferred]
        for group in audit(*cases(seed))
    }
    assert found == counted(*cases(seed))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_intervals_are_the_exact_ones_of_scipy(seed, confidence):
    for group in audit(*cases(seed, count=25), confidence=confidence):
        row = [group.cases, group.accepted, group.errors, group.deferred]
        for quantity, (events, of) in pairs_of(row).items():
            bounds = binomtest(events, of).proportion_ci(confidence, method="exact")
            found = [getattr(group, quantity + end) for end in ("", "_lower", "_upper")]
            assert found == pytest.approx([events / of, *bounds], abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_a_group_fares_worse_where_exact_tails_say_so(seed, confidence):
    found = {
        (group.name, group.value, quantity)
        for group in audit(*cases(seed), confidence=confidence)
        for quantity in group.worse
    }
    assert found == brute_force_worse(counted(*cases(seed)), 1 - confidence)


def two_groups(accepted_first, accepted_second):
    accepted = np.r_[accepted_first, accepted_second].astype(bool)
    groups = ["a"] * len(accepted_first) + ["b"] * len(accepted_second)
    return groups, accepted, np.zeros_like(accepted), np.zeros_like(accepted)


def test_a_group_can_fare_worse_in_everything():
    groups, accepted, ood, _ = two_groups([1, 0] * 20, [1] * 40)
    wrong = np.array(groups) == "a"
    worse, better = audit({"site": groups}, accepted, ood, wrong)
    assert worse.worse == QUANTITIES
    assert better.worse == ()


def test_other_columns_make_the_tests_stricter():
    groups, *decisions = two_groups([0] * 5 + [1] * 15, [1] * 20)  # p is 0.0236 twice
    columns = {"site": groups, "sex": ["f", "m"] * 20, "age": ["y", "o"] * 20}
    alone, *_ = audit({"site": groups}, *decisions, confidence=0.8)
    together, *_ = audit(columns, *decisions, confidence=0.8)
    assert alone.worse == ("coverage", "deferral")
    assert together.worse == ()


def test_a_group_that_fares_better_is_not_named():
    groups, *decisions = two_groups([0] * 20, [1] * 20)
    assert [group.worse for group in audit({"site": groups}, *decisions)] == [
        ("coverage", "deferral"),
        (),
    ]


def test_an_ood_case_is_not_deferred():
    no, yes = np.zeros(3, dtype=bool), np.ones(3, dtype=bool)
    (group,) = audit({"site": ["a"] * 3}, no, yes, no)
    assert (group.cases, group.accepted, group.deferred) == (3, 0, 0)


def test_a_group_without_accepted_cases_has_no_error():
    no = np.zeros(3, dtype=bool)
    (group,) = audit({"site": ["a"] * 3}, no, no, ~no)
    assert group.errors == 0
    assert all(map(isnan, (group.error, group.error_lower, group.error_upper)))


def test_a_group_of_all_cases_is_compared_with_nothing():
    no = np.zeros(30, dtype=bool)
    (group,) = audit({"site": ["a"] * 30}, no, no, no, confidence=0.01)
    assert group.worse == ()


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


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_a_confidence_that_is_not_a_probability_is_refused(confidence):
    with pytest.raises(UsageError, match="confidence is"):
        audit(*cases(0), confidence=confidence)


def test_a_case_both_accepted_and_ood_is_refused():
    yes = np.ones(2, dtype=bool)
    with pytest.raises(UsageError, match="ood is true at position 1, which is accepted"):
        audit({"site": ["a", "a"]}, yes, np.array([False, True]), yes)


def test_a_column_of_another_length_is_named():
    no = np.zeros(2, dtype=bool)
    with pytest.raises(UsageError, match="columns has 3 values of site for 2 cases"):
        audit({"site": ["a"] * 3}, no, no, no)


def test_no_cases_are_refused():
    none = np.zeros(0, dtype=bool)
    with pytest.raises(UsageError, match="accepted is empty"):
        audit({"site": []}, none, none, none)


@pytest.mark.usefixtures("as_in_use")
def test_decisions_of_another_length_are_named():
    no = np.zeros(2, dtype=bool)
    with pytest.raises(UsageError, match="wrong has length 3 but accepted has length 2"):
        audit({"site": ["a"] * 2}, no, no, np.zeros(3, dtype=bool))
