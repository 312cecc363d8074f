import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from misgiving.decisions.engine import (
    Decider,
    calibrated,
    cases_of,
    detectors_of,
    estimate_of,
)
from misgiving.deferral import Targets
from misgiving.errors import DataError, UsageError
from misgiving.results.predictions import Head, Predictions
from misgiving.scores.confidences import all_confidences

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
def parts():
    return [predictions(name, 600, seed=seed) for seed, name in enumerate(["train", "tune", "cal"])]


@pytest.fixture(scope="module")
def detectors(parts):
    return detectors_of(parts[0])


@pytest.fixture(scope="module")
def estimate(parts, detectors):
    return estimate_of(parts[1], detectors)


def calibrated_on(tune, calibration, detectors, estimate, **targets):
    (decider,) = calibrated(
        tune,
        calibration,
        detectors,
        estimate,
        [Targets(**{"max_error": 0.1, **targets})],
        seed=0,
        calibration_fingerprint="cases",
    )
    return decider


@pytest.fixture(scope="module")
def decider(parts, detectors, estimate):
    _, tune, calibration = parts
    return calibrated_on(tune, calibration, detectors, estimate, max_ood_false_alarms=0.05)


def test_the_promise_holds_on_cases_of_the_same_kind(decider):
    fresh = predictions("fresh", 20000, seed=9)
    verdicts = decider(fresh)
    accepted = np.array([verdict.decision == "accept" for verdict in verdicts])
    ood = np.array([verdict.decision == "ood" for verdict in verdicts])
    assert accepted.mean() > 0.2
    assert fresh.errors[accepted].mean() <= 0.1
    assert ood.mean() <= 0.05


def test_images_far_from_the_training_images_are_ood(decider):
    far = predictions("far", 50, seed=3, far=-40.0)
    verdicts = decider(far)
    assert {verdict.decision for verdict in verdicts} == {"ood"}
    assert max(verdict.p_value for verdict in verdicts) < 0.02


def test_a_verdict_is_what_its_parts_say(decider, detectors, estimate):
    fresh = predictions("fresh", 30, seed=9)
    confidences = all_confidences(fresh, detectors)
    for row, verdict in enumerate(decider(fresh)):
        assert verdict.predicted_class == CLASSES[fresh.logits[row].argmax()]
        assert verdict.probability == pytest.approx(
            estimate.scaling(fresh.logits)[row, fresh.logits[row].argmax()]
        )
        assert verdict.score == pytest.approx(estimate.scores(confidences, fresh.logits)[row])
        assert verdict.ood_score == pytest.approx(confidences["knn"][row])
        assert 0 < verdict.error_probability < 1
        assert verdict.expected_loss >= 0
        assert verdict.reason


def test_a_decider_decides_the_same_after_it_was_kept(decider, tmp_path):
    decider.save(tmp_path / "policy", {"seed": 0})
    again = Decider.load(tmp_path / "policy")
    fresh = predictions("fresh", 40, seed=5)
    assert again(fresh) == decider(fresh)


def test_predictions_of_another_model_are_refused(decider):
    fresh = replace(predictions("fresh", 10, seed=5), model="another")
    with pytest.raises(DataError, match="run `misgiving calibrate` for this model"):
        decider(fresh)


FILES = ["policy.json", "estimate.json", "detectors.safetensors", "cases.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_policy_folder_that_was_changed_by_hand_is_refused(decider, tmp_path, name):
    decider.save(tmp_path / "policy", {"share": 0.5})
    path = tmp_path / "policy" / name
    if name.endswith(".json"):
        path.write_text(path.read_text().replace("0.", "1.", 1))
        json.loads(path.read_text())
    else:
        path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(DataError, match=f"{name}.*run `misgiving calibrate` again"):
        Decider.load(tmp_path / "policy")


@pytest.mark.parametrize("name", FILES)
def test_a_policy_folder_that_lacks_a_file_is_refused(decider, tmp_path, name):
    decider.save(tmp_path / "policy", {})
    (tmp_path / "policy" / name).unlink()
    with pytest.raises(DataError, match="misgiving calibrate"):
        Decider.load(tmp_path / "policy")


@pytest.mark.parametrize("name", FILES[:3])
def test_files_of_two_calibrations_do_not_mix(decider, parts, detectors, tmp_path, name):
    decider.save(tmp_path / "policy", {})
    other = replace(
        calibrated_with(parts, detectors, lambda part: part.select(np.arange(400))),
        detectors=detectors_of(parts[1]),
        estimate=estimate_of(parts[2], detectors),
    )
    other.save(tmp_path / "other", {})
    (tmp_path / "policy" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(DataError, match=f"{name}: .*calibrate"):
        Decider.load(tmp_path / "policy")


def test_classes_in_another_order_are_refused(decider):
    fresh = replace(predictions("fresh", 10, seed=5), classes=("c", "b", "a"))
    with pytest.raises(DataError, match="for the classes a, b, c in this order, not for c, b, a"):
        decider(fresh)


def test_an_image_whose_outputs_are_not_finite_is_deferred_and_the_others_decided(decider):
    fresh = predictions("fresh", 10, seed=5)
    expected = decider(fresh)
    features, logits = fresh.features.copy(), fresh.logits.copy()
    features[2], logits[4, 0] = np.nan, np.inf
    found = decider(replace(fresh, features=features, logits=logits))
    assert [found[row].decision for row in (2, 4)] == ["defer", "defer"]
    assert np.isnan([found[row].error_probability for row in (2, 4)]).all()
    others = [row for row in range(10) if row not in (2, 4)]
    assert [found[row] for row in others] == [expected[row] for row in others]


def test_only_the_detectors_that_decide_are_computed(decider):
    assert decider.used.names == ("knn",)
    assert len(decider.detectors.names) > 1


def test_predictions_of_an_unknown_model_set_no_policy(parts, detectors, estimate):
    _, tune, calibration = parts
    with pytest.raises(DataError, match="not known which model"):
        calibrated_on(replace(tune, model=""), replace(calibration, model=""), detectors, estimate)


def test_a_group_in_both_parts_is_refused(parts, detectors, estimate):
    _, tune, calibration = parts
    shared = replace(calibration, groups=("tune-0", *calibration.groups[1:]))
    with pytest.raises(DataError, match="group 'tune-0' is in the tune and in the calibration"):
        calibrated_on(tune, shared, detectors, estimate)


def test_parts_of_two_models_are_refused(parts, detectors, estimate):
    _, tune, calibration = parts
    with pytest.raises(DataError, match="predicted by two models"):
        calibrated_on(tune, replace(calibration, model="another"), detectors, estimate)


def test_an_unknown_detector_is_named(parts, detectors, estimate):
    with pytest.raises(UsageError, match="unknown detector 'nearest'; choose from msp"):
        cases_of(parts[1], detectors, estimate, ood_detector="nearest")


def test_a_model_without_a_linear_head_has_the_detectors_that_need_none(parts):
    detectors = detectors_of(replace(parts[0], head=None))
    assert "knn" in detectors.names
    assert "vim" not in detectors.names


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


def calibrated_with(parts, detectors, change, **targets):
    _, tune, calibration = parts
    estimate = estimate_of(tune, detectors)
    return calibrated_on(tune, change(calibration), detectors, estimate, **targets)


def test_where_every_calibration_case_is_right_all_may_be_accepted(parts, detectors):
    found = calibrated_with(parts, detectors, right_everywhere)
    assert found.policy.accept_threshold == -np.inf


def test_where_every_calibration_case_is_wrong_nothing_is_accepted(parts, detectors):
    found = calibrated_with(parts, detectors, wrong_everywhere)
    assert found.policy.accept_threshold is None
    assert "deferred" in found.policy.summary()[0]


def test_a_tune_part_of_right_answers_gives_a_policy_all_the_same(parts, detectors):
    _, tune, calibration = parts
    estimate = estimate_of(right_everywhere(tune), detectors)
    found = calibrated_on(tune, calibration, detectors, estimate, max_error=0.3)
    assert np.isfinite([verdict.error_probability for verdict in found(calibration)]).all()


def test_a_calibration_set_of_one_class_promises_nothing_about_another(parts, detectors):
    with pytest.raises(DataError, match=r"class_max_miss of b: .*no calibration cases"):
        calibrated_with(parts, detectors, of_one_class, class_max_miss={"b": 0.1})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (few, "set has 3 cases"),
        (with_nan, "NaN or infinite; check the images"),
        (constant, "scores of the calibration set are all"),
    ],
)
def test_calibration_cases_that_cannot_be_used_are_refused(parts, detectors, change, says):
    def spread(part):
        changed = change(part)
        return replace(changed, groups=tuple(f"case-{row}" for row in range(len(changed))))

    with pytest.raises((DataError, UsageError), match=says):
        calibrated_with(parts, detectors, spread)


def test_a_policy_folder_is_sealed_with_sha_256(decider, tmp_path):
    """As it has always been: a policy that was calibrated before is accepted."""
    decider.save(tmp_path / "policy", {})
    written = json.loads((tmp_path / "policy" / "checksums.json").read_text())
    assert written == {
        name: hashlib.sha256((tmp_path / "policy" / name).read_bytes()).hexdigest()
        for name in FILES
    }
