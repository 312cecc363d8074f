import json
import shutil
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest
import torch
from bundled import SIDE, checkpoint, noisy_set, policy_of, write_run
from huggingface_hub import ModelCard
from onnx.reference import ReferenceEvaluator

from misgiving.bundle.export_run import export_run
from misgiving.checkpoint import load
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.reasons import NO_POLICY
from misgiving.deferral.sentences import certificate_sentences
from misgiving.errors import DataError, UsageError
from misgiving.models.joint import evaluated
from misgiving.models.optimised import write_graph
from misgiving.predictions import inference
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.network import INPUT, OUTPUTS
from misgiving.scores.outputs import Outputs


@pytest.fixture
def graph_of(exported, monkeypatch):
    """Instead of exporting, which takes seconds, copy the graph that was exported once."""
    graph = exported[1] / "model.onnx"
    monkeypatch.setattr(inference, "write_graph", lambda _, path, **__: shutil.copy(graph, path))


def pixels_of(squares):
    return torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 255


def assert_gives_what_the_model_gives(path, model, size):
    """For any number of images, with names and shapes as they are promised."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for count in (1, 2, 7):
        images = pixels_of(random.integers(0, 256, (count, size, size, 3), dtype=np.uint8))
        outputs = session.run([*OUTPUTS], {"images": images.numpy()})
        expected_outputs = evaluated(model, map(model.full_output, [images]))
        for output, expected in zip(outputs, expected_outputs, strict=True):
            largest = float(expected.abs().max()) if expected.numel() else 0.0
            np.testing.assert_allclose(output, expected.numpy(), rtol=1e-4, atol=1e-5 * largest)


def error_log_odds(policy, logits, taps):
    """By the calibrated softmax and the class probes, all computed by torch in float64."""
    learned, classes = policy.calibration_, range(logits.shape[1])
    scaled = logits / learned.scaling.temperature + torch.tensor(learned.scaling.biases)
    members = [scaled.log_softmax(dim=1)]
    for probe in policy.policy_.detectors.probes.probes.values():
        read = taps[:, probe.first : probe.first + len(probe.weight)]
        opinion = read @ torch.from_numpy(probe.weight) + torch.from_numpy(probe.bias)
        members.append(opinion.log_softmax(dim=1))
    pool = learned.error_estimator
    weights = torch.tensor(pool.weights, dtype=torch.float64)
    mean = torch.einsum("m,mnc->nc", weights, torch.stack(members).exp())
    biases = torch.tensor(pool.scaling.biases, dtype=torch.float64)
    mixed = (mean.log() / pool.scaling.temperature + biases).softmax(dim=1)
    return [
        (mixed[row, name].log() - sum(mixed[row, c] for c in classes if c != name).log()).item()
        for row, name in enumerate(mixed.argmax(dim=1).tolist())
    ]


def test_graph_and_model_agree_to_a_millionth_in_double_precision(exported, tmp_path):
    """In float32 they differ by how libraries round; onnxruntime has no convolution in float64."""
    model, path = load(exported[0]).model.double().eval(), tmp_path / "model.onnx"
    write_graph(model, path, size=SIDE, inputs=INPUT, outputs=tuple(OUTPUTS))
    images = pixels_of(noisy_set(6, seed=4).images).double()
    found = ReferenceEvaluator(str(path)).run([*OUTPUTS], {INPUT: images.numpy()})
    with torch.no_grad():
        expected = model.full_output(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == np.float64
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-9)
    policy, (logits, _, features, taps) = Deferral.load(exported[0] / "policy"), found
    outputs = Outputs(logits=logits, features=features, taps=taps)
    evidence = policy.policy_.detectors.evidence(outputs)
    scores = policy.calibration_.with_learned({}, logits, evidence)
    of_torch = error_log_odds(policy, expected[0], expected[-1])
    np.testing.assert_allclose(scores["error_estimator"], of_torch, rtol=1e-6, atol=1e-9)


def test_the_graph_gives_what_the_model_gives_and_names_no_place_of_this_machine(exported):
    graph = exported[1] / "model.onnx"
    assert_gives_what_the_model_gives(graph, load(exported[0]).model, SIDE)
    assert not any(place in graph.read_bytes() for place in (b"site-packages", b"joint.py"))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("backbone", "size"),
    [("tf_efficientnet_lite0", 64), ("resnet18", 64), ("test_vit", 96), ("test_convnext", 64)],
)
@pytest.mark.parametrize("options", [{"reads_logits": False}, {"reads_logits": True}, {"taps": ()}])
def test_backbones_of_every_kind_can_be_exported(tmp_path, backbone, size, options):
    options = {"reads_logits": False, **options}
    made = checkpoint(backbone=backbone, image_size=size, **options)
    made = replace(made, estimates_losses="taps" not in options)
    bundle = export_run(write_run(tmp_path / "run", made), tmp_path / "bundle")
    assert_gives_what_the_model_gives(tmp_path / "bundle" / "model.onnx", made.model, size)
    decisions = bundle.decide_inputs(noisy_set(3, seed=1, side=size).images)
    assert [row.predicted_loss is None for row in decisions] == ["taps" in options] * 3


@pytest.mark.usefixtures("graph_of")
def test_without_a_policy_all_are_deferred_and_the_graph_of_another_model_is_refused(
    exported, tmp_path
):
    made = load(exported[0])
    bundle = export_run(write_run(tmp_path / "run", made), tmp_path / "bundle")
    assert bundle.policy is None
    (target,) = bundle.card["targets"]
    assert "no policy was calibrated" in target
    squares = noisy_set(5, seed=16).images
    logits = torch.from_numpy(bundle.network(squares).logits).double()
    for row, expected in zip(bundle.decide_inputs(squares), logits.softmax(1), strict=True):
        assert (row.decision, row.reason) == ("defer", NO_POLICY)
        assert list(row.probabilities.values()) == pytest.approx(expected.tolist())
    with torch.no_grad():
        made.model.backbone.get_classifier().bias += 0.1
    with pytest.raises(DataError):
        export_run(write_run(tmp_path / "changed", made), tmp_path / "other")
    for folder, overwrite in (("bundle", False), ("changed", True)):  # only a bundle is replaced
        with pytest.raises(UsageError, match=f"{folder}: exists"):
            export_run(tmp_path / "run", tmp_path / folder, overwrite=overwrite)
    assert export_run(tmp_path / "run", tmp_path / "bundle", overwrite=True).card == bundle.card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "changed", "run"]


def test_the_card_says_what_the_model_is_and_promises(exported):
    run, folder = exported
    card = json.loads((folder / "card.json").read_text())
    policy = Deferral.load(run / "policy")
    assert card["class_counts"]["train"] == {"a": 34, "b": 33, "c": 33}
    assert card["fingerprint"] == policy.policy_.model
    assert card["targets"] == certificate_sentences(policy)
    assert card["architecture"]["backbone"] == "vgg16_mini"
    readable = (folder / "README.md").read_text()
    facts = ModelCard(readable).data
    assert (facts.library_name, facts.pipeline_tag) == ("misgiving", "image-classification")
    assert (facts.license, "onnx" in facts.tags) == (None, True)
    for sentence in (*card["targets"], *card["limits"], "| train | 34 | 33 | 33 |"):
        assert sentence in readable


@pytest.mark.usefixtures("graph_of")
@pytest.mark.parametrize(
    ("detector", "score"),
    [
        ("vim", "calibrated"),
        ("predicted_loss", "calibrated"),
        ("knn", "error_estimator"),
        ("knn_layers", "calibrated"),
    ],
)
def test_another_policy_is_exported_with_what_it_needs_alone(tmp_path, detector, score):
    made, images = checkpoint(), noisy_set(60, seed=21)
    policy = policy_of(made, ood_detector=detector, score=score)
    bundle = export_run(write_run(tmp_path / "run", made, policy), tmp_path / "bundle")
    assert set(bundle.policy.detectors.names) <= {detector}
    learned = score == "error_estimator"
    assert (bundle.policy.detectors.probes is not None) == learned
    expected = policy.decide(predictions_of(made, images))
    for ours, theirs in zip(bundle.decide_inputs(images.images), expected, strict=True):
        assert ours.decision == theirs.decision
        scores = theirs.ood_score, theirs.acceptance_score
        assert (ours.ood_score, ours.acceptance_score) == pytest.approx(scores, rel=3e-4, abs=3e-4)


def test_a_full_disk_is_no_fault_of_the_backbone(exported, tmp_path, monkeypatch):
    failure = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(torch.onnx, "export", failure)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path / 'bundle'}'"):
        export_run(exported[0], tmp_path / "bundle")
