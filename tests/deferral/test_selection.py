"""The average guarantee, against its definition in scalar loops, and by simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from policies import outputs, scored

from misgiving import Deferral
from misgiving.deferral.drift import DriftMonitor
from misgiving.deferral.guarantees import lowest_allowed
from misgiving.deferral.outcomes import Selection
from misgiving.errors import DataError

scores = st.lists(st.integers(0, 12), max_size=25).map(lambda each: np.array(each, dtype=float))

lowest_scores = st.sampled_from([-math.inf, 0.0, 5.0, 11.5])


def accepted_by_definition(new, images, wrong, cases, rate, lowest):
    """Number of the best that are accepted: each is tried, with all that are tied."""
    best = 0
    for count in range(1, len(new) + 1):
        last = sorted(new, reverse=True)[count - 1]
        if last < lowest or sum(1 for score in new if score >= last) != count:
            continue
        mistaken = sum(1 for score in wrong if score >= last)
        if (1 + mistaken) * images <= rate * (cases + 1) * count + 1e-9:
            best = count
    return best


@given(scores, scores, st.integers(0, 60), st.integers(0, 20), st.floats(0.01, 0.9), lowest_scores)
def test_a_batch_accepts_as_many_of_its_best_as_the_definition(
    new, wrong, more, others, rate, lowest
):
    images, cases = len(new) + others, len(wrong) + more
    chosen = Selection(
        cases=cases, lowest=lowest, rates=(rate,), wrong=(tuple(np.sort(wrong).tolist()),)
    )
    threshold = chosen.threshold(new, images)
    expected = accepted_by_definition(new, images, wrong, cases, rate, lowest)
    assert (new >= threshold).sum() == expected


@given(scores, st.integers(0, 60), st.floats(0.01, 0.9))
def test_the_lowest_allowed_score_is_the_loosest_within_the_rate(wrong, more, rate):
    cases = len(wrong) + more
    lowest = lowest_allowed(wrong, cases, rate=rate)

    def estimate(least):
        return (1 + sum(1 for score in wrong if score >= least)) / (cases + 1)

    if lowest == math.inf:
        assert 1 / (cases + 1) > rate - 1e-9
    else:
        assert estimate(lowest) <= rate + 1e-9
        looser = [score for score in wrong if score < lowest]
        assert not looser or estimate(max(looser)) > rate - 1e-9


CURVES = [  # risk by share accepted: the target is met never, early, late, or but in the middle
    lambda u, rate: np.full(len(u), 1.2 * rate),
    lambda u, rate: 2 * rate * u,
    lambda u, rate: np.where(u < 0.3, 2 * rate, 0.2 * rate),
    lambda u, rate: np.where(np.abs(u - 0.5) < 0.2, 3 * rate, 0.0),
]


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize(("cases", "images", "rate"), [(60, 50, 0.1), (200, 300, 0.05)])
def test_the_mean_error_of_batches_is_within_the_target(curve, cases, images, rate):
    random, draws = np.random.default_rng(cases), 1500
    shares = np.zeros(draws)
    for draw in range(draws):
        known, new = random.random(cases), random.random(images)
        wrong = np.sort(-known[random.random(cases) < curve(known, rate)])
        rule = Selection(cases=cases, lowest=-math.inf, rates=(rate,), wrong=(tuple(wrong),))
        threshold = rule.threshold(-new, images)
        if threshold < math.inf:
            taken = new[-new >= threshold]
            shares[draw] = (random.random(len(taken)) < curve(taken, rate)).mean()
    assert shares.mean() <= rate + 3 * shares.std() / math.sqrt(draws)


@pytest.mark.filterwarnings("ignore:Accepted. nothing")
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("draws", [80, pytest.param(600, marks=pytest.mark.soak)])
@pytest.mark.usefixtures("as_in_use")
def test_targets_hold_on_average_over_policies_and_batches(silent, draws):
    """The error of the accepted, the misses of a class, and OOD false alarms, all at once."""
    random = np.random.default_rng(0)
    logits, labels = outputs(20_000, signal=2.0)
    targets = {"max_silent_error": 0.05, "max_error": None} if silent else {"max_error": 0.08}
    seen = []
    for draw in range(draws):
        rows = random.integers(0, len(labels), 560)
        sets = [(logits[part], labels[part]) for part in np.split(rows, [60, 260])]
        deferral = Deferral(
            guarantee="average", class_max_miss={"1": 0.1}, max_ood_false_alarms=0.1, seed=draw,
            **targets,
        ).fit(*sets[:2])  # fmt: skip
        decisions, truth = deferral.decide(sets[2][0]), sets[2][1]
        accepted, wrong = decisions.decisions == "accept", decisions.predicted != truth
        of_class, ood = truth == 1, decisions.decisions == "ood"
        among = len(truth) if silent else max(1, accepted.sum())
        missed = (accepted & wrong & of_class).sum() / of_class.sum()
        seen.append([(accepted & wrong).sum() / among, missed, ood.mean(), accepted.mean()])
    means, errors = np.mean(seen, axis=0), np.std(seen, axis=0) / math.sqrt(draws)
    limits = np.array([0.05 if silent else 0.08, 0.1, 0.1])
    assert (means[:3] <= limits + 3 * errors[:3]).all()
    assert means[3] > 0.3  # something is accepted


def fitted(**parameters):
    logits, labels = outputs(500, signal=1.5)
    pairs = (logits[:100], labels[:100]), (logits[100:], labels[100:])
    return Deferral(guarantee="average", **parameters).fit(*pairs)


def test_a_batch_is_decided_whole_and_in_any_order(tmp_path):
    deferral, (logits, _) = fitted(max_error=0.1), outputs(200, seed=5, signal=1.5)
    decided = deferral.decide(logits)
    order = np.random.default_rng(0).permutation(len(logits))
    assert (deferral.decide(logits[order]).decisions == decided.decisions[order]).all()
    deferral.save(tmp_path / "policy")
    assert Deferral.load(tmp_path / "policy").decide(logits) == decided
    again = deferral.decide(logits[:10], threshold=decided.threshold)
    assert (again.decisions == decided.decisions[:10]).all()
    with pytest.raises(DataError, match="at least 50 cases, got 49"):
        deferral.decide(logits[:49])


def test_where_nothing_is_certified_no_batch_is_accepted():
    policy = fitted(max_error=0.1).policy_
    images = np.linspace(3, 9, 60), np.zeros(60), np.ones(60, dtype=bool)
    judged = scored(policy.certificate, *images), np.zeros(60, dtype=int)
    assert policy.thresholds(*judged)[0] < math.inf
    nothing = replace(policy.certificate, accept_threshold=math.inf, accepted=0)
    assert replace(policy, certificate=nothing).thresholds(*judged) == (math.inf,)


def test_a_batch_with_a_threshold_of_its_own_has_no_test_of_the_share_that_is_accepted():
    names = [test.name for test in DriftMonitor(fitted(max_error=0.1).certificate_).tests]
    assert names == ["familiarity", "scores"]


def test_the_order_of_images_with_equal_scores_and_groups_does_not_matter():
    deferral, random = fitted(max_error=0.1), np.random.default_rng(0)
    scores, units = np.round(random.random(60), 1), np.arange(60) // 3
    judged, part = (scores, np.zeros(60), random.random(60) < 0.8), np.zeros(60, dtype=int)
    policy = replace(deferral.policy_, seed=4)
    thresholds = {
        policy.thresholds(
            scored(policy.certificate, *(each[order] for each in judged)), part, units[order]
        )
        for order in (random.permutation(60) for _ in range(50))
    }
    assert len(thresholds) == 1


@pytest.mark.filterwarnings("ignore:The cases are no longer like")
def test_silent_errors_alone_are_decided_image_by_image():
    deferral, (logits, _) = fitted(max_error=None, max_silent_error=0.02), outputs(60, seed=5)
    singly = [deferral.decide(row[None])[0].decision for row in logits]
    assert singly == deferral.decide(logits).decisions.tolist()
    assert deferral.decide(logits).threshold == deferral.certificate_.accept_threshold
    assert "accept" in singly


@pytest.mark.filterwarnings("ignore:The cases are no longer like")
def test_one_image_of_each_group_decides_the_batch_in_any_order():
    deferral, (logits, _) = fitted(max_error=0.1), outputs(120, seed=7, signal=1.5)
    groups = np.array([f"g{row % 60}" for row in range(120)])

    def threshold(logits, groups):
        columns = {f"logit_{name}": logits[:, int(name)] for name in "012"}
        return deferral.decide({**columns, "group": groups.tolist()}).threshold

    order = np.random.default_rng(1).permutation(120)
    assert threshold(logits[order], groups[order]) == threshold(logits, groups)
    copies = np.concatenate([logits[:60]] * 2)
    assert threshold(copies, groups) == deferral.decide(logits[:60]).threshold
    weak = np.concatenate([logits, np.zeros((300, 3))])  # the last are of one group, and all alike
    names = np.array([f"g{min(row, 120)}" for row in range(420)])
    alone = deferral.decide(weak[:121]).threshold
    assert threshold(weak, names) == alone < deferral.decide(weak).threshold
