"""Expected errors of images without labels."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from misgiving import Deferral
from misgiving.deferral.decision_tables import DecidedNumbers, row_of
from misgiving.deferral.expected_performance import compare_distributions, expected_performance
from misgiving.report.drift import performance_sentences


def outputs(count, seed, signal=3.0, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return rng.normal(size=(count, classes)) + signal * np.eye(classes)[labels], labels


@pytest.fixture(scope="module")
def deferral():
    found = Deferral(max_error=0.1, max_ood_false_alarms=0.05)
    return found.fit(outputs(150, 0), outputs(400, 1))


def expected_of(deferral, logits):
    decided = deferral.decide_outputs(logits)
    return expected_performance(
        deferral,
        errors=decided.error_probability,
        scores=decided.acceptance_score,
        ood_scores=decided.ood_score,
        accepted=decided.decisions == "accept",
        names=[str(number) for number in range(len(logits))],
    ), decided


def test_the_estimate_is_the_mean_error_probability_corrected_by_the_calibration_cases(deferral):
    logits, labels = outputs(400, 1)
    cases = deferral.decide(logits)
    residuals = [
        (one.predicted_class != str(label)) - one.error_probability
        for one, label in zip(cases, labels, strict=True)
    ]
    new = outputs(300, 2)[0]
    errors = [one.error_probability for one in deferral.decide(new)]
    found, _ = expected_of(deferral, new)
    assert found.errors.everything.images == 300
    assert found.errors.everything.error == pytest.approx(
        np.mean(errors) + np.mean(residuals), abs=1e-9
    )
    assert (
        found.errors.everything.lower
        < found.errors.everything.error
        < found.errors.everything.upper
    )


def test_on_the_calibration_cases_themselves_it_is_their_error(deferral):
    logits, labels = outputs(400, 1)
    found, decided = expected_of(deferral, logits)
    wrong = decided.predicted != labels
    accepted = decided.decisions == "accept"
    assert found.errors.everything.error == pytest.approx(wrong.mean(), abs=1e-9)
    assert found.errors.accepted.error == pytest.approx(wrong[accepted].mean(), abs=1e-9)
    assert found.errors.accepted.images == accepted.sum()


def test_the_interval_covers_the_error_of_new_batches(deferral):
    covered = []
    for seed in range(100, 200):
        logits, labels = outputs(100, seed)
        found, decided = expected_of(deferral, logits)
        error = (decided.predicted != labels).mean()
        covered.append(found.errors.everything.lower <= error <= found.errors.everything.upper)
    assert np.mean(covered) >= 0.88


def test_images_of_another_kind_are_noticed(deferral):
    same, _ = expected_of(deferral, outputs(600, 3)[0])
    other, _ = expected_of(deferral, outputs(600, 4, signal=1.0)[0])
    assert not same.alarms
    assert not same.gaps
    assert "no difference was found" in performance_sentences(same)[-1]
    assert other.alarms
    assert "Do not trust this" in performance_sentences(other)[-1]
    assert "less sure" in performance_sentences(other)[-1]


def test_a_small_change_of_a_whole_set_is_noticed_where_no_sequential_test_alarms(deferral):
    found, decided = expected_of(deferral, outputs(150, 21, signal=2.6)[0])
    assert not found.alarms
    calibration = deferral.certificate_.ood_scores
    assert found.gaps == {"ood": pytest.approx(ks_2samp(decided.ood_score, calibration).statistic)}
    assert (
        f"OOD scores differs from that of the calibration cases by up to "
        f"{100 * found.gaps['ood']:.0f}" in performance_sentences(found)[-1]
    )


def test_sets_that_are_drawn_alike_are_seldom_found_to_differ(deferral):
    found = [expected_of(deferral, outputs(100, seed)[0])[0] for seed in range(300, 340)]
    assert sum(bool(one.alarms or one.gaps) for one in found) <= 4  # 3 % are expected


@pytest.mark.parametrize(("sizes", "shift"), [((300, 500), 0.2), ((484, 620), 0.1), ((50, 90), 0)])
def test_distributions_are_compared_by_kolmogorov_and_smirnovs_test(sizes, shift):
    rng = np.random.default_rng(0)
    first, second = rng.normal(shift, size=sizes[0]), rng.normal(size=sizes[1])
    expected = ks_2samp(first, second)
    gap, p_value = compare_distributions(first, second)
    assert gap == pytest.approx(expected.statistic, abs=1e-12)
    assert p_value == pytest.approx(expected.pvalue, rel=0.2)


def test_sentences_are_of_right_answers(deferral):
    found, decided = expected_of(deferral, outputs(300, 5)[0])
    of = found.errors.everything
    shown = f"{100 - 100 * of.error:.1f} % right ({100 - 100 * of.upper:.1f} to "
    assert performance_sentences(found)[0].startswith(f"Expected without labels: {shown}")
    assert f"of {(decided.decisions == 'accept').sum()}." in performance_sentences(found)[1]


def test_images_without_finite_outputs_are_left_out(deferral):
    logits = outputs(50, 6)[0]
    found, _ = expected_of(deferral, np.concatenate([logits, np.full((3, 3), np.nan)]))
    assert found.errors.everything.images == 50
    assert expected_of(deferral, np.full((3, 3), np.nan))[0] is None


def test_few_calibration_cases_give_no_estimate():
    deferral = Deferral(max_error=0.5).fit(outputs(60, 0), outputs(19, 1))
    assert expected_of(deferral, outputs(50, 2)[0])[0] is None


def test_where_nothing_is_accepted_only_the_whole_is_estimated():
    deferral = Deferral(max_error=0.001).fit(outputs(60, 0), outputs(100, 1))
    found, _ = expected_of(deferral, outputs(50, 2)[0])
    assert found.errors.accepted is None
    assert len(performance_sentences(found)) == 2


def test_numbers_of_rows_are_those_of_arrays(deferral):
    logits = outputs(40, 7)[0]
    rows = [row_of(str(at), one) for at, one in enumerate(deferral.decide(logits))]
    numbers = DecidedNumbers()
    passed = list(numbers.through([*rows, rows[0]._replace(decision=None)]))
    assert passed[:-1] == rows
    expected = expected_of(deferral, logits)[0]
    assert expected_performance(deferral, **numbers.arrays) == expected
