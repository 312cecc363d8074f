"""Decisions by policies of a linear model with features, by its detectors and calibration."""

from dataclasses import replace

import numpy as np
import pytest

from misgiving import Deferral
from misgiving.calibration.fit import fit_calibrator
from misgiving.deferral.decisions import NUMBERS, defer_all, score_without_policy
from misgiving.deferral.reasons import NO_POLICY
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.outputs import Head, Outputs

CLASSES = ("a", "b", "c")
CENTRES = np.eye(3, 6) * 4
HEAD = Head(CENTRES.astype(np.float32), np.zeros(3, dtype=np.float32))


def predictions(name, count, *, seed, far=0.0):
    """A linear model of noisy features; some samples lie between the classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    noise = random.choice([0.5, 3.0], size=(count, 1), p=[0.7, 0.3])
    features = CENTRES[labels] + noise * random.normal(size=(count, 6)) + far
    logits = features @ HEAD.weight.T
    wrong = logits.argmax(axis=1) != labels
    return Predictions(
        logits=logits.astype(np.float32),
        features=features.astype(np.float32),
        predicted_losses=(random.normal(size=count) + wrong).astype(np.float32),
        labels=labels,
        ids=tuple(f"{name}-{number}" for number in range(count)),
        groups=tuple(f"{name}-{number // 2}" for number in range(count)),
        classes=CLASSES,
        head=HEAD,
        model="fingerprint",
    )


TRAIN, TUNE, CALIBRATION = (
    predictions(name, 600, seed=seed) for seed, name in enumerate(["train", "tune", "cal"], 4)
)


@pytest.fixture(scope="module")
def detectors():
    return FittedDetectors.fit(TRAIN)


def calibrated(tuning, detectors):
    """The calibration of the most probable class."""
    return fit_calibrator(tuning, detectors, np.ones(len(CLASSES)))


@pytest.fixture(scope="module")
def fitted(detectors):
    return calibrated(TUNE, detectors)


def certified(detectors, fitted=None, calibration=CALIBRATION, **parameters):
    deferral = Deferral(**{"max_error": 0.1, "ood_detector": "knn", **parameters})
    return deferral.certify(TUNE, calibration, detectors=detectors, fitted=fitted)


@pytest.fixture(scope="module")
def policy(detectors, fitted):
    return certified(detectors, fitted, max_ood_false_alarms=0.05)


def test_the_targets_hold_on_cases_of_the_same_kind_and_those_far_away_are_ood(policy):
    fresh = predictions("fresh", 20000, seed=9)
    decisions = policy.decide_for(fresh)
    accepted, ood = (decisions.decisions == name for name in ("accept", "ood"))
    assert accepted.mean() > 0.2
    assert (decisions.predicted != fresh.labels)[accepted].mean() <= 0.1
    assert ood.mean() <= 0.05
    with pytest.warns(UserWarning, match="no longer like .* OOD scores differs"):
        far = policy.decide(predictions("far", 50, seed=3, far=-40.0))
    assert set(far.decisions) == {"ood"}
    assert far.ood_p_value.max() < 0.02


def test_a_decision_contains_the_numbers_of_detectors_and_calibrator(policy, detectors, fitted):
    fresh, calibrator = predictions("fresh", 30, seed=9), fitted.calibrator
    assert policy.policy_.used_detectors.names == ("knn",)  # the others are not computed
    assert len(policy.policy_.detectors.names) > 1
    scores = all_scores(fresh, detectors)
    evidence = detectors.evidence(fresh)
    pool = calibrator.error_estimator
    biases = np.exp(pool.scaling.biases)
    assert calibrator.score == "error_estimator"
    for row, decision in enumerate(policy.decide(fresh)):
        scaled = np.exp(
            calibrator.scaling.logarithms(fresh.logits[row : row + 1].astype(np.float64))
        )
        mean = np.array(pool.weights) @ np.concatenate([scaled, np.exp(evidence[row])])
        mixed = mean ** (1 / pool.scaling.temperature) * biases
        mixed /= mixed.sum()
        assert decision.predicted_class == CLASSES[mixed.argmax()]
        assert list(decision.probabilities.values()) == pytest.approx(mixed)
        assert decision.error_probability == pytest.approx(1 - mixed.max())
        right = mixed.max() / np.delete(mixed, mixed.argmax()).sum()
        assert decision.acceptance_score == pytest.approx(np.log(right))
        assert decision.ood_score == pytest.approx(scores["knn"][row])
        assert decision.predicted_loss == pytest.approx(fresh.predicted_losses[row])
        assert 0 < decision.error_probability < 1
        assert decision.expected_loss >= 0
        assert decision.reason


def test_a_cost_is_the_reason_for_a_prediction_exactly_where_it_changed_it(detectors):
    policy = certified(detectors, rule="costs", costs={"a": 2.0})
    reasons = []
    for decision in policy.decide(predictions("fresh", 3000, seed=9)):
        most = max(decision.probabilities, key=decision.probabilities.get)
        assert ("is predicted" in decision.reason) == (decision.predicted_class != most)
        reasons += [decision.reason] * (decision.predicted_class != most)
    assert reasons
    assert all("a is predicted because missing it costs 2" in reason for reason in reasons)


def test_without_a_policy_everything_is_deferred_and_the_reason_says_so():
    fresh = predictions("fresh", 5, seed=9)
    logits = fresh.logits.copy()
    logits[3] = np.nan
    decisions = defer_all(score_without_policy(Outputs(logits=logits)), CLASSES)
    assert {(row.decision, row.reason) for row in decisions} == {("defer", NO_POLICY)}
    first = decisions[0]
    assert list(first.probabilities.values()) == pytest.approx(fresh.probabilities[0])
    assert {*decisions[3].probabilities.values()} == {None}
    assert first.ood_p_value is first.error_probability is first.predicted_loss is None


def test_decisions_are_a_sequence(policy):
    decisions = policy.decide(predictions("fresh", 40, seed=5))
    rows = list(decisions)
    assert len(decisions) == len(rows) == 40
    assert (decisions[3], decisions[-1]) == (rows[3], rows[39])
    assert list(decisions[5:9]) == rows[5:9]
    with pytest.raises(IndexError):
        decisions[40]


FILES = ["policy.json", "policy.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_policy_folder_decides_the_same_and_one_that_was_changed_is_refused(
    policy, detectors, fitted, tmp_path, name
):
    policy.save(tmp_path)
    fresh = predictions("fresh", 40, seed=5)
    assert list(Deferral.load(tmp_path).decide(fresh)) == list(policy.decide(fresh))
    few = certified(detectors, fitted, CALIBRATION.select(np.arange(400)))
    few.policy_ = replace(few.policy_, detectors=FittedDetectors.fit(TUNE))
    few.save(tmp_path / "other")
    content = (tmp_path / name).read_bytes()
    edited = content.replace(b"0.", b"1.", 1) if name == FILES[0] else content[:-8] + bytes(8)
    for damaged in (edited, None, (tmp_path / "other" / name).read_bytes()):
        (tmp_path / name).unlink()
        if damaged is not None:
            (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=r"policy\.(json|safetensors): .*misgiving calibrate"):
            Deferral.load(tmp_path)
        (tmp_path / name).write_bytes(content)


def test_an_image_whose_outputs_are_not_finite_is_deferred_and_the_others_decided(policy):
    fresh = predictions("fresh", 10, seed=5)
    expected = policy.decide(fresh)
    features, logits = fresh.features.copy(), fresh.logits.copy()
    features[2], logits[4, 0] = np.nan, np.inf
    decide, losses = policy.policy_.decide, fresh.predicted_losses
    decisions = decide(Outputs(logits=logits, features=features, predicted_losses=losses))
    for row, decision in enumerate(decisions):
        if row in (2, 4):
            assert (decision.decision, decision.error_probability) == ("defer", None)
        else:
            assert decision.decision == expected[row].decision
            assert decision.acceptance_score == pytest.approx(expected[row].acceptance_score)
    nothing = np.full_like(logits, np.nan)
    lost = decide(replace(fresh.outputs, logits=nothing, predicted_losses=features[:, 0]))
    assert set(lost.decisions) == {"defer"}


def test_blocks_of_images_are_judged_as_all_at_once(policy, monkeypatch):
    fresh = predictions("fresh", 50, seed=5)
    fresh.features[7] = np.nan
    whole = policy.decide(fresh)
    monkeypatch.setattr("misgiving.deferral.policy.BLOCK", 3 * len(CLASSES))
    blocks = policy.decide(fresh)
    assert (blocks.decisions == whole.decisions).all()
    for name in (*NUMBERS, "probabilities", "predicted"):
        if name != "probability":
            values, expected = getattr(blocks, name), getattr(whole, name)
            np.testing.assert_allclose(values, expected, err_msg=name)


@pytest.mark.parametrize("lost", ["features", "taps"])
def test_outputs_that_are_not_finite_are_deferred_also_where_they_decide_nothing(
    detectors, fitted, lost
):
    policy = certified(detectors, fitted, replace(CALIBRATION, labels=CALIBRATION.choices))
    calibration = replace(policy.calibration_, score="calibrated")
    fresh = predictions("fresh", 3, seed=5)
    outputs = {"features": fresh.features.copy(), "taps": np.zeros((3, 4), dtype=np.float32)}
    outputs[lost][1] = np.nan
    policy = replace(policy.policy_, calibration=calibration)
    decisions = policy.decide(replace(fresh.outputs, **outputs))
    assert decisions.decisions.tolist() == ["accept", "defer", "accept"]


def test_a_tuning_set_of_right_answers_gives_a_policy_all_the_same(detectors):
    fitted = calibrated(replace(TUNE, labels=TUNE.choices), detectors)
    decisions = certified(detectors, fitted, max_error=0.3).decide(CALIBRATION)
    assert np.isfinite(decisions.probabilities).all()
    assert np.isnan(decisions.error_probability).all()  # which the calibration cases contradict
