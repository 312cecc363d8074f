from dataclasses import replace

import numpy as np
import pytest
from policies import outputs
from scipy.stats import binom, ks_2samp

from misgiving import Deferral
from misgiving.deferral.bounds import compare_distributions
from misgiving.deferral.expected_performance import (
    error_bound_at,
    expected_errors,
    expected_performance,
)
from misgiving.deferral.sentences import lines
from misgiving.scores.outputs import Outputs


@pytest.fixture(scope="module")
def deferral():
    policy = Deferral(max_error=0.1, max_ood_false_alarms=0.05)
    return policy.fit(outputs(150, 0), outputs(400, 1))


def expected_of(deferral, logits):
    policy = deferral.policy_
    decided = policy.decide(Outputs(logits=logits))  # also those that are not finite
    names = tuple(map(str, range(len(logits))))
    return expected_performance(policy, replace(decided, ids=names).to_frame()), decided


def said(expected, deferral):
    return lines("drift.txt", "performance", expected, deferral.policy_)


def test_the_estimate_is_the_mean_error_probability_corrected_by_the_calibration_cases(deferral):
    logits, labels = outputs(400, 1)
    residuals = [
        (decision.predicted_class != str(label)) - decision.error_probability
        for decision, label in zip(deferral.decide(logits), labels, strict=True)
    ]
    new = outputs(300, 2)[0]
    errors = [decision.error_probability for decision in deferral.decide(new)]
    expected, decided = expected_of(deferral, new)
    everything, accepted = expected.errors
    assert everything.images == 300
    assert everything.error == pytest.approx(np.mean(errors) + np.mean(residuals), abs=1e-9)
    assert everything.lower < everything.error < everything.upper
    assert accepted.images == (decided.decisions == "accept").sum()
    first, second, _ = said(expected, deferral)
    rates = (1 - everything.error, 1 - everything.upper, 1 - everything.lower)
    for number in (*(f"{100 * rate:.1f}" for rate in rates), "of 300"):
        assert number in first
    assert f"of {accepted.images}." in second
    assert expected.error_bound is None  # which a batch with its own threshold has
    assert first.startswith("Expected without labels")


def test_on_the_calibration_cases_themselves_it_is_their_error_with_two_more_accepted(deferral):
    logits, labels = outputs(400, 1)
    expected, decided = expected_of(deferral, logits)
    wrong, is_accepted = decided.predicted != labels, decided.decisions == "accept"
    everything, accepted = expected.errors
    assert everything.error == pytest.approx(wrong.mean(), abs=1e-9)
    number = is_accepted.sum()
    more = (wrong[is_accepted].sum() + 2) / (number + 2)
    assert accepted.error == pytest.approx(more, abs=1e-9)
    assert accepted.images == number


def test_the_interval_covers_the_error_of_new_batches(deferral):
    covered = []
    for seed in range(100, 200):
        logits, labels = outputs(100, seed)
        decided = deferral.decide(logits)
        accepted = decided.decisions == "accept"
        everything, _ = expected_errors(deferral.policy_, decided.error_probability, accepted)
        error = (decided.predicted != labels).mean()
        covered.append(everything.lower <= error <= everything.upper)
    assert np.mean(covered) >= 0.88


def test_the_interval_of_the_accepted_reaches_a_batch_at_the_certified_rate(deferral):
    """Although the calibration cases, on which the threshold was chosen, have fewer errors."""
    certificate = deferral.certificate_
    highest = min(0.1, certificate.error_bound)
    for count in (40, 400):
        errors, accepted = np.full(count, 1e-6), np.ones(count, dtype=bool)
        everything, of_accepted = expected_errors(deferral.policy_, errors, accepted)
        reached = binom.ppf(0.975, count, highest) / count
        assert of_accepted.upper >= reached > everything.upper


def test_a_batch_with_its_own_threshold_has_the_bound_of_this_threshold():
    sets = outputs(150, 0, signal=2.0), outputs(400, 1, signal=2.0)
    average = Deferral(guarantee="average", max_error=0.05).fit(*sets)
    certificate, bounds = average.certificate_, []
    for signal in (2.0, 1.5):
        expected, decided = expected_of(average, outputs(300, 2, signal=signal)[0])
        accepted = decided.decisions == "accept"
        assert decided.acceptance_score[accepted].min() == decided.threshold
        bounds.append(error_bound_at(certificate, decided.threshold))
        assert expected.error_bound == bounds[-1]
        shown = f"{np.ceil(1000 * bounds[-1]) / 10:g} % at the threshold of this batch."
        sentence = said(expected, average)[0]
        assert sentence.startswith("On average over calibrations and batches, at most 5 % of")
        assert sentence.endswith(f"with 95 % confidence, at most {shown}")
        reached = binom.ppf(0.975, accepted.sum(), bounds[-1]) / accepted.sum()
        assert expected.errors[1].upper >= reached
    assert len({*bounds, certificate.error_bound}) == 3


def test_images_of_another_kind_are_noticed(deferral):
    same, _ = expected_of(deferral, outputs(600, 3)[0])
    other, _ = expected_of(deferral, outputs(600, 4, signal=1.0)[0])
    assert not same.alarms
    assert not same.gaps
    assert "no difference was found" in said(same, deferral)[-1]
    assert other.alarms
    first = said(other, deferral)[0]  # before any number
    assert first.startswith("Do not trust the next numbers")
    assert "less sure" in first


def test_a_small_change_of_a_whole_set_is_noticed_where_no_sequential_test_alarms(deferral):
    expected, decided = expected_of(deferral, outputs(150, 21, signal=2.6)[0])
    assert not expected.alarms
    gap = ks_2samp(decided.ood_score, deferral.certificate_.ood_scores).statistic
    assert expected.gaps == {"ood": pytest.approx(gap)}
    assert f"up to {100 * gap:.0f} perc" in said(expected, deferral)[0]


def test_sets_that_are_drawn_alike_are_seldom_found_to_differ(deferral):
    drawn = [expected_of(deferral, outputs(100, seed)[0])[0] for seed in range(300, 340)]
    assert sum(bool(expected.alarms or expected.gaps) for expected in drawn) <= 4  # 3 % of 40


@pytest.mark.parametrize(("sizes", "shift"), [((300, 500), 0.2), ((484, 620), 0.1), ((50, 90), 0)])
def test_distributions_are_compared_by_kolmogorov_and_smirnovs_test(sizes, shift):
    rng = np.random.default_rng(0)
    first, second = rng.normal(shift, size=sizes[0]), rng.normal(size=sizes[1])
    expected = ks_2samp(first, second)
    gap, p_value = compare_distributions(first, second)
    assert gap == pytest.approx(expected.statistic, abs=1e-12)
    assert p_value == pytest.approx(expected.pvalue, rel=0.2)


def test_images_without_finite_outputs_or_that_are_unreadable_are_left_out(deferral):
    logits = outputs(50, 6)[0]
    expected, _ = expected_of(deferral, np.concatenate([logits, np.full((3, 3), np.nan)]))
    assert expected.errors[0].images == 50
    assert expected_of(deferral, np.full((3, 3), np.nan))[0] is None


def test_few_calibration_cases_give_no_estimate_and_none_accepted_only_that_of_the_whole():
    few = Deferral(max_error=0.5).fit(outputs(60, 0), outputs(19, 1))
    assert expected_of(few, outputs(50, 2)[0])[0] is None
    with pytest.warns(UserWarning, match="Too few cases: [0-9]"):
        strict = Deferral(max_error=0.001).fit(outputs(60, 0), outputs(100, 1))
    expected, _ = expected_of(strict, outputs(50, 2)[0])
    assert expected.errors[1] is None
    assert len(said(expected, strict)) == 2
