"""The error estimator: what it computes, and when it is the acceptance score."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from misgiving.calibrators.apply import (
    CALIBRATED,
    ERROR_ESTIMATOR,
    Calibrator,
    probe_scores,
)
from misgiving.calibrators.fit import (
    TuningSet,
    cross_fitted,
    fit_calibrator,
    fit_error_estimator,
    log_loss_of,
)
from misgiving.errors import DataError
from misgiving.metrics.selective import aurc


def by_logits(_):
    return None


def drawn(seed=0, count=400, *, told=1.5):
    """Logits that know a part of the truth, and two probes, the first of which knows another."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    logits = random.normal(size=(count, 3)) + 1.5 * np.eye(3)[labels]
    probe = random.normal(size=(count, 3)) + told * np.eye(3)[labels]
    noise = random.normal(size=(count, 3))
    evidence = log_softmax(np.stack([probe, noise], axis=1), axis=2)
    scores = {"msp": np.exp(log_softmax(logits, axis=1)).max(axis=1)}
    return TuningSet(scores, logits, labels, np.arange(count) // 2, evidence)


def test_the_log_odds_by_each_probe_are_those_by_hand():
    tuning = drawn(count=20)
    named = tuning.logits.argmax(axis=1)
    found = probe_scores(tuning.evidence, named)
    assert list(found) == ["probe_0", "probe_1"]
    for number, values in enumerate(found.values()):
        for row, value in enumerate(values):
            right = math.exp(tuning.evidence[row, number, named[row]])
            assert value == pytest.approx(math.log(right / (1 - right)))


def test_it_is_the_penalised_regression_of_standardised_log_odds():
    tuning = drawn()
    named = tuning.logits.argmax(axis=1)
    calibrator = fit_calibrator(tuning).calibrator
    known = calibrator.with_learned(tuning.scores, tuning.logits)
    table = np.column_stack([known[CALIBRATED], *probe_scores(tuning.evidence, named).values()])
    standard = (table - table.mean(axis=0)) / table.std(axis=0)
    expected = LogisticRegression(C=0.1).fit(standard, named == tuning.labels)
    found = calibrator.with_learned(tuning.scores, tuning.logits, tuning.evidence)
    np.testing.assert_allclose(
        found[ERROR_ESTIMATOR], expected.decision_function(standard), atol=1e-3
    )


def test_it_is_chosen_where_probes_tell_more_and_orders_errors_better():
    fitted, fresh = fit_calibrator(drawn()), drawn(seed=1, count=3000)
    calibrator, wrong = fitted.calibrator, fresh.logits.argmax(axis=1) != fresh.labels
    assert calibrator.score == ERROR_ESTIMATOR
    scores = calibrator.with_learned(fresh.scores, fresh.logits, fresh.evidence)
    assert aurc(scores[ERROR_ESTIMATOR], wrong) < aurc(scores[CALIBRATED], wrong) - 0.01
    accepted_by = calibrator.acceptance_scores(fresh.scores, fresh.logits, fresh.evidence)
    np.testing.assert_array_equal(accepted_by, scores[ERROR_ESTIMATOR])
    assert calibrator.error(accepted_by).mean() == pytest.approx(wrong.mean(), abs=0.04)


@pytest.mark.parametrize(
    ("seed", "count", "told"),
    [*((seed, 150, 0.3) for seed in range(6)), (4, 100, 0.6)],  # in the last, its AURC is lower
)
def test_it_is_chosen_exactly_where_its_log_loss_out_of_fold_is_lower(seed, count, told):
    tuning = drawn(seed, count=count, told=told)
    calibrator = fit_calibrator(tuning).calibrator
    held_out = cross_fitted(tuning, by_logits)
    wrong = held_out.named != tuning.labels
    losses = {
        name: np.mean(
            [
                math.log1p(math.exp(value if is_wrong else -value))
                for value, is_wrong in zip(held_out.scores[name], wrong, strict=True)
            ]
        )
        for name in (ERROR_ESTIMATOR, CALIBRATED)
    }
    assert log_loss_of(held_out.scores[CALIBRATED], wrong) == pytest.approx(losses[CALIBRATED])
    preferred = losses[ERROR_ESTIMATOR] < losses[CALIBRATED]
    assert (calibrator.score == ERROR_ESTIMATOR) == preferred
    if not preferred:
        others = {
            name: value for name, value in calibrator.tried.items() if name != ERROR_ESTIMATOR
        }
        assert calibrator.score == min(others, key=others.get)


def test_out_of_fold_no_image_is_scored_by_what_saw_its_group():
    tuning = drawn()
    before = cross_fitted(tuning, by_logits).scores[ERROR_ESTIMATOR]
    _, first = next(iter(GroupKFold(5).split(tuning.labels, groups=tuning.groups)))
    labels = tuning.labels.copy()
    labels[first] = (labels[first] + 1) % 3
    after = cross_fitted(tuning._replace(labels=labels), by_logits).scores[ERROR_ESTIMATOR]
    np.testing.assert_array_equal(before[first], after[first])
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(fit_calibrator(tuning).scores, before)


def test_with_few_errors_or_without_probes_there_is_none():
    tuning = drawn()
    few = np.where(np.arange(400) < 9, tuning.labels, tuning.logits.argmax(axis=1))
    for less in (tuning._replace(labels=few), tuning._replace(evidence=None)):
        calibrator = fit_calibrator(less).calibrator
        assert calibrator.error_estimator is None
        assert ERROR_ESTIMATOR not in calibrator.tried


def test_another_acceptance_score_brings_its_own_error_probabilities():
    tuning = drawn()
    fitted = fit_calibrator(tuning)
    other = fitted.accepting_by("msp")
    assert other.calibrator.score == "msp"
    np.testing.assert_array_equal(other.scores, tuning.scores["msp"])
    errors = other.calibrator.error(tuning.scores["msp"])
    assert errors.mean() == pytest.approx(fitted.wrong.mean(), abs=0.01)
    assert replace(fitted.calibrator, score="msp", error=other.calibrator.error) == other.calibrator


def test_it_survives_json_and_refuses_to_do_without_its_evidence():
    tuning = drawn()
    calibrator = fit_calibrator(tuning).calibrator
    again = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert again == calibrator
    with pytest.raises(DataError, match="reads class probes"):
        calibrator.acceptance_scores(tuning.scores, tuning.logits)


def test_only_calibrated_and_the_probes_are_read():
    tuning = drawn()
    known = fit_calibrator(tuning).calibrator.with_learned(tuning.scores, tuning.logits)
    known = {**known, **probe_scores(tuning.evidence, tuning.logits.argmax(axis=1))}
    wrong = tuning.logits.argmax(axis=1) != tuning.labels
    assert fit_error_estimator(known, wrong).names == (CALIBRATED, "probe_0", "probe_1")
