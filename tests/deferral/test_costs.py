"""`review_cost`: the least expected cost decides, against loops over classes and cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from policies import outputs
from scipy import stats

from misgiving import Deferral
from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.sentences import certificate_sentences
from misgiving.errors import DataError, UsageError

CLASSES = ("NV", "MEL", "BCC")
COSTS = {"MEL": 20.0, "BCC": 5.0}
TUNING, CALIBRATION, NEW = (
    outputs(n, seed, signal=2.0) for n, seed in ((300, 1), (600, 2), (900, 3))
)


def fitted(**parameters):
    parameters = {"costs": COSTS, "rule": "costs", "review_cost": 1.0} | parameters
    deferral = Deferral(max_ood_false_alarms=None, max_error_probability=1.0, **parameters)
    return deferral.fit(TUNING, CALIBRATION, classes=CLASSES)


@pytest.fixture(scope="module")
def deferral():
    return fitted()


def test_the_cheapest_answer_is_given_unless_a_review_costs_less(deferral):
    decided = {"accept": 0, "defer": 0}
    for decision in deferral.decide(NEW[0]):
        expected = {
            answer: sum(
                COSTS.get(k, 1.0) * p for k, p in decision.probabilities.items() if k != answer
            )
            for answer in CLASSES
        }
        assert expected[decision.answer] == pytest.approx(min(expected.values()))
        assert decision.expected_cost == pytest.approx(expected[decision.answer])
        assert (decision.decision == "accept") == (decision.expected_cost <= 1.0)
        relation = "within 1." if decision.decision == "accept" else "above 1."
        assert decision.reason.startswith("expected cost ")
        assert relation in decision.reason
        decided[decision.decision] += 1
    assert min(decided.values()) > 100


def test_the_certificate_has_the_mean_cost_and_an_exact_bound_on_the_error(deferral):
    certificate, labels = deferral.certificate_, CALIBRATION[1]
    total = accept_all = accepted = wrong = 0
    decisions = deferral.decide(CALIBRATION[0])
    for decision, label in zip(decisions, labels, strict=True):
        cost = 0.0 if decision.answer == CLASSES[label] else COSTS.get(CLASSES[label], 1.0)
        accept_all += cost
        total += cost if decision.decision == "accept" else 1.0
        accepted += decision.decision == "accept"
        wrong += decision.decision == "accept" and cost > 0
    assert certificate.mean_cost.mean == pytest.approx(total / len(labels))
    assert certificate.mean_cost.accept_all == pytest.approx(accept_all / len(labels))
    assert certificate.mean_cost.lower < certificate.mean_cost.mean < certificate.mean_cost.upper
    assert (certificate.accepted, certificate.wrong) == (accepted, wrong)
    assert certificate.error_bound == pytest.approx(float(upper_bound(wrong, accepted, level=0.05)))
    scores = decisions.acceptance_score
    by_threshold = [
        sum(
            (COSTS.get(CLASSES[label], 1.0) if predicted != label else 0.0) if score >= at else 1.0
            for score, predicted, label in zip(scores, decisions.predicted, labels, strict=True)
        )
        for at in (*scores, math.inf)
    ]
    assert certificate.mean_cost.best == pytest.approx(min(by_threshold) / len(labels))


@pytest.mark.usefixtures("as_in_use")
def test_the_interval_of_the_mean_cost_and_the_bound_of_the_error_hold():
    """The policy is fixed, and the calibration cases are drawn again."""
    policy, missed = fitted(), np.zeros(3)
    population = outputs(40_000, 9, signal=2.0)
    decisions = policy.decide(population[0])
    accepted, wrong = decisions.decisions == "accept", decisions.wrong(population[1])
    costs = np.array([COSTS.get(name, 1.0) for name in CLASSES])[population[1]]
    mean, error = np.where(accepted, costs * wrong, 1.0).mean(), wrong[accepted].mean()
    for seed in range(100):
        drawn = np.random.default_rng(seed).integers(40_000, size=200)
        pair = population[0][drawn], population[1][drawn]
        again = Deferral(**policy.get_params()).fit(TUNING, pair, classes=CLASSES).certificate_
        missed += (
            again.mean_cost.lower > mean,
            again.mean_cost.upper < mean,
            again.error_bound < error,
        )
    assert missed[:2].sum() <= stats.binom.ppf(1 - 1e-4, 100, 0.05)
    assert missed[2] <= stats.binom.ppf(1 - 1e-4, 100, 0.05)


def test_a_target_of_errors_decides_beside_the_cost():
    both, alone = fitted(max_error=0.05), fitted()
    accepted = [each.decide(NEW[0]).decisions == "accept" for each in (both, alone)]
    assert (accepted[0] <= accepted[1]).all()
    assert 0 < accepted[0].sum() < accepted[1].sum()


def test_a_saved_policy_decides_and_states_the_same(tmp_path, deferral):
    deferral.save(tmp_path / "policy")
    again = Deferral.load(tmp_path / "policy")
    assert again.decide(NEW[0]) == deferral.decide(NEW[0])
    assert again.get_params() == deferral.get_params() | {"max_error": None}
    (sentence,) = (x for x in certificate_sentences(deferral, brief=True) if "Cost of a case" in x)
    assert f"{deferral.certificate_.mean_cost.mean:.3g} on average" in sentence


def test_without_costs_a_review_is_compared_with_the_probability_of_an_error():
    plain = fitted(costs=None, rule="most_probable", review_cost=0.1).decide(NEW[0])
    assert np.allclose(plain.expected_cost, plain.error_probability)
    assert ((plain.decisions == "accept") == (plain.error_probability <= 0.1)).all()


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(UsageError, match="`review_cost` must be positive"):
        fitted(review_cost=0.0)
    few, policy = tuple(each[:40] for each in TUNING), replace(fitted())
    with pytest.raises(DataError, match="`review_cost` needs an error probability"):
        policy.fit(few, CALIBRATION, classes=CLASSES)
