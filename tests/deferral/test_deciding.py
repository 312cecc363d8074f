from dataclasses import replace

import numpy as np
import pytest

from misgiving import Deferral
from misgiving.deferral.decisions import NO_POLICY, Decisions
from misgiving.deferral.fit import fit_calibration, scored_cases
from misgiving.deferral.rules import DecisionRule
from misgiving.errors import DataError, UsageError
from misgiving.predictions.record import Predictions
from misgiving.report.certificate import certificate_sentences
from misgiving.scores.detectors import FittedDetectors, all_scores, evidence_of
from misgiving.scores.outputs import Head

CLASSES = ("a", "b", "c")
CENTRES = np.eye(3, 6) * 4
RANDOM_HEAD = Head(CENTRES.astype(np.float32), np.zeros(3, dtype=np.float32))


def predictions(name, count, *, seed, far=0.0, head=RANDOM_HEAD):
    """A linear model of noisy features; some samples lie between the classes."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    noise = random.choice([0.5, 3.0], size=(count, 1), p=[0.7, 0.3])
    features = CENTRES[labels] + noise * random.normal(size=(count, 6)) + far
    logits = features @ RANDOM_HEAD.weight.T
    wrong = logits.argmax(axis=1) != labels
    return Predictions(
        logits=logits.astype(np.float32),
        features=features.astype(np.float32),
        predicted_losses=(random.normal(size=count) + wrong).astype(np.float32),
        labels=labels,
        ids=tuple(f"{name}-{number}" for number in range(count)),
        groups=tuple(f"{name}-{number // 2}" for number in range(count)),
        classes=CLASSES,
        head=head,
        model="fingerprint",
    )


@pytest.fixture(scope="module")
def sets():
    return [predictions(name, 600, seed=seed) for seed, name in enumerate(["train", "tune", "cal"])]


@pytest.fixture(scope="module")
def detectors(sets):
    return FittedDetectors.fit(sets[0])


@pytest.fixture(scope="module")
def fitted(sets, detectors):
    return fit_calibration(sets[1], detectors)


@pytest.fixture(scope="module")
def calibrator(fitted):
    return fitted.calibrator


def calibrated_on(tune, calibration, detectors, fitted, **parameters):
    deferral = Deferral(**{"max_error": 0.1, "ood_detector": "knn", **parameters})
    return deferral.certify(tune, calibration, detectors=detectors, fitted=fitted)


@pytest.fixture(scope="module")
def policy(sets, detectors, fitted):
    _, tune, calibration = sets
    return calibrated_on(tune, calibration, detectors, fitted, max_ood_false_alarms=0.05)


def test_the_targets_hold_on_cases_of_the_same_kind(policy):
    fresh = predictions("fresh", 20000, seed=9)
    found = policy.decide(fresh)
    accepted, ood = found.decisions == "accept", found.decisions == "ood"
    assert accepted.mean() > 0.2
    assert (found.predicted != fresh.labels)[accepted].mean() <= 0.1
    assert ood.mean() <= 0.05


def test_images_far_from_the_training_images_are_ood(policy):
    far = predictions("far", 50, seed=3, far=-40.0)
    decisions = policy.decide(far)
    assert {one.decision for one in decisions} == {"ood"}
    assert max(one.ood_p_value for one in decisions) < 0.02


def test_a_decision_contains_the_numbers_of_detectors_and_calibrator(policy, detectors, calibrator):
    fresh = predictions("fresh", 30, seed=9)
    scores = all_scores(fresh, detectors)
    acceptance = calibrator.acceptance_scores(scores, fresh.logits, evidence_of(fresh, detectors))
    for row, one in enumerate(policy.decide(fresh)):
        scaled = calibrator.scaling(fresh.logits)[row]
        most = scaled.argmax()
        assert one.predicted_class == CLASSES[most]
        assert one.probability == pytest.approx(1 - one.error_probability)
        for position, name in enumerate(CLASSES):
            if position != most:
                share = scaled[position] / (1 - scaled[most])
                assert one.probabilities[name] == pytest.approx(share * one.error_probability)
        assert one.acceptance_score == pytest.approx(acceptance[row])
        assert one.ood_score == pytest.approx(scores["knn"][row])
        assert one.predicted_loss == pytest.approx(fresh.predicted_losses[row])
        assert 0 < one.error_probability < 1
        assert one.expected_loss >= 0
        assert one.reason


def test_a_cost_is_the_reason_for_a_name_only_where_it_changed_the_name(sets, detectors):
    rule, (_, tune, calibration) = DecisionRule(costs={"a": 2.0}), sets
    fitted = fit_calibration(tune, detectors, rule)
    policy = calibrated_on(tune, calibration, detectors, fitted, rule="costs", costs=rule.costs)
    fresh = predictions("fresh", 3000, seed=9)
    most = fitted.calibrator.scaling(fresh.logits.astype(np.float64)).argmax(axis=1)
    reasons = {True: [], False: []}
    for one, scaled in zip(policy.decide(fresh), most, strict=True):
        if "is named" in one.reason:
            reasons[one.predicted_class != CLASSES[scaled]].append(one.reason)
    assert reasons[True]
    assert reasons[False]
    assert all("a is named because missing it costs 2" in reason for reason in reasons[True])
    assert all("by the calibrated classifier alone" in reason for reason in reasons[False])


def test_without_a_policy_everything_is_deferred_and_the_reason_says_so():
    fresh = predictions("fresh", 5, seed=9)
    logits = fresh.logits.copy()
    logits[3] = np.nan
    found = Decisions.without_policy(CLASSES, logits)
    assert {(one.decision, one.reason) for one in found} == {("defer", NO_POLICY)}
    assert list(found[0].probabilities.values()) == pytest.approx(fresh.probabilities[0])
    assert np.isnan(list(found[3].probabilities.values())).all()
    assert found[0].ood_p_value is found[0].error_probability is found[0].predicted_loss is None


def test_a_policy_decides_the_same_after_it_was_saved(policy, tmp_path):
    policy.save(tmp_path / "policy")
    again = Deferral.load(tmp_path / "policy")
    fresh = predictions("fresh", 40, seed=5)
    assert list(again.decide(fresh)) == list(policy.decide(fresh))


def test_decisions_are_a_sequence(policy):
    decisions = policy.decide(predictions("fresh", 40, seed=5))
    rows = list(decisions)
    assert len(decisions) == len(rows) == 40
    assert (decisions[3], decisions[-1]) == (rows[3], rows[39])
    assert list(decisions[5:9]) == rows[5:9]
    with pytest.raises(IndexError):
        decisions[40]


def test_predictions_of_another_model_are_refused(policy):
    fresh = replace(predictions("fresh", 10, seed=5), model="another")
    with pytest.raises(DataError, match="run `misgiving calibrate` for this model"):
        policy.decide(fresh)


FILES = ["policy.json", "policy.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_policy_folder_that_was_changed_by_hand_is_refused(policy, tmp_path, name):
    policy.save(tmp_path / "policy")
    path = tmp_path / "policy" / name
    if name.endswith(".json"):
        path.write_text(path.read_text().replace("0.", "1.", 1))
    else:
        path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(DataError, match=f"{name}.*run `misgiving calibrate` again"):
        Deferral.load(tmp_path / "policy")


@pytest.mark.parametrize("name", FILES)
def test_a_policy_folder_that_lacks_a_file_is_refused(policy, tmp_path, name):
    policy.save(tmp_path / "policy")
    (tmp_path / "policy" / name).unlink()
    with pytest.raises(DataError, match="misgiving calibrate"):
        Deferral.load(tmp_path / "policy")


def test_files_of_two_calibrations_do_not_mix(policy, sets, detectors, tmp_path):
    policy.save(tmp_path / "policy")
    other = calibrated_with(sets, detectors, lambda part: part.select(np.arange(400)))
    other.detectors_ = FittedDetectors.fit(sets[1])
    other.save(tmp_path / "other")
    path = tmp_path / "policy" / "policy.safetensors"
    path.write_bytes((tmp_path / "other" / path.name).read_bytes())
    with pytest.raises(DataError, match=r"safetensors: .*calibrate"):
        Deferral.load(tmp_path / "policy")


def test_classes_in_another_order_are_refused(policy):
    fresh = replace(predictions("fresh", 10, seed=5), classes=("c", "b", "a"))
    with pytest.raises(DataError, match="a, b, c, and the predictions are for c, b, a"):
        policy.decide(fresh)


def test_an_image_whose_outputs_are_not_finite_is_deferred_and_the_others_decided(policy):
    fresh = predictions("fresh", 10, seed=5)
    expected = policy.decide(fresh)
    features, logits = fresh.features.copy(), fresh.logits.copy()
    features[2], logits[4, 0] = np.nan, np.inf
    found = policy.decide_outputs(logits, features, fresh.predicted_losses)
    assert [found[row].decision for row in (2, 4)] == ["defer", "defer"]
    assert [found[row].error_probability for row in (2, 4)] == [None, None]
    for row in (row for row in range(10) if row not in (2, 4)):
        assert found[row].decision == expected[row].decision
        assert found[row].acceptance_score == pytest.approx(expected[row].acceptance_score)


@pytest.mark.parametrize("lost", ["features", "taps"])
def test_outputs_that_are_not_finite_are_deferred_also_where_they_decide_nothing(
    sets, detectors, lost
):
    policy = calibrated_with(sets, detectors, right_everywhere)
    policy.calibration_ = replace(policy.calibration_, score="calibrated")
    fresh = predictions("fresh", 3, seed=5)
    outputs = {"features": fresh.features.copy(), "taps": np.zeros((3, 4), dtype=np.float32)}
    outputs[lost][1] = np.nan
    found = policy.decide_outputs(
        fresh.logits, outputs["features"], fresh.predicted_losses, outputs["taps"]
    )
    assert [one.decision for one in found] == ["accept", "defer", "accept"]


def test_where_no_output_is_finite_every_image_is_deferred(policy):
    lost = np.full((3, 3), np.nan, dtype=np.float32)
    zeros = np.zeros((3, 6), dtype=np.float32)
    found = policy.decide_outputs(lost, zeros, zeros[:, 0])
    assert [one.decision for one in found] == ["defer"] * 3


def test_only_the_detectors_that_decide_are_computed(policy):
    assert policy.used_detectors.names == ("knn",)
    assert len(policy.detectors_.names) > 1


def test_a_group_in_both_sets_is_refused(sets):
    _, tune, calibration = sets
    shared = replace(calibration, groups=("tune-0", *calibration.groups[1:]))
    with pytest.raises(DataError, match="group 'tune-0' "):
        Deferral().fit(tune, shared)


def test_sets_of_two_models_are_refused(sets):
    _, tune, calibration = sets
    with pytest.raises(DataError, match="two models"):
        Deferral().fit(tune, replace(calibration, model="another"))


def test_an_unknown_detector_is_named(sets, detectors, calibrator):
    with pytest.raises(UsageError, match="unknown detector 'nearest'; choose from msp"):
        scored_cases(sets[1], detectors, calibrator, DecisionRule(), ood_detector="nearest")


def right_everywhere(part):
    return replace(part, labels=part.choices)


def wrong_everywhere(part):
    return replace(part, labels=(part.choices + 1) % 3)


def of_one_class(part):
    return replace(part, labels=np.zeros(len(part), dtype=np.int64))


def with_nan(part):
    features = part.features.copy()
    features[3] = np.nan
    return replace(part, features=features)


def constant(part):
    return part.select(np.zeros(len(part), dtype=np.int64))


def few(part):
    return part.select(np.arange(3))


def calibrated_with(sets, detectors, change, **parameters):
    _, tune, calibration = sets
    fitted = fit_calibration(tune, detectors)
    return calibrated_on(tune, change(calibration), detectors, fitted, **parameters)


def test_where_every_calibration_case_is_right_all_may_be_accepted(sets, detectors):
    found = calibrated_with(sets, detectors, right_everywhere)
    assert found.certificate_.accept_threshold == -np.inf


def test_where_every_calibration_case_is_wrong_nothing_is_accepted(sets, detectors):
    found = calibrated_with(sets, detectors, wrong_everywhere)
    assert found.certificate_.accept_threshold is None
    assert "deferred" in certificate_sentences(found)[0]


def test_a_tuning_set_of_right_answers_gives_a_policy_all_the_same(sets, detectors):
    _, tune, calibration = sets
    fitted = fit_calibration(right_everywhere(tune), detectors)
    found = calibrated_on(tune, calibration, detectors, fitted, max_error=0.3)
    decisions = found.decide(calibration)
    assert all(one.error_probability is not None for one in decisions)


def test_a_calibration_set_of_one_class_certifies_nothing_about_another(sets, detectors):
    with pytest.raises(DataError, match=r"class_max_miss` of b: .*no calibration cases"):
        calibrated_with(sets, detectors, of_one_class, class_max_miss={"b": 0.1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (few, "set has 3 cases"),
        (with_nan, "NaN or infinite"),
        (constant, "scores of the calibration set are all"),
    ],
)
def test_calibration_cases_that_cannot_be_used_are_refused(sets, detectors, change, says):
    def spread(part):
        changed = change(part)
        return replace(changed, groups=tuple(f"case-{row}" for row in range(len(changed))))

    with pytest.raises((DataError, UsageError), match=says):
        calibrated_with(sets, detectors, spread)
