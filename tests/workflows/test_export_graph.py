import json
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import (
    CLASSES,
    TORCH,
    WithFeatures,
    deferral,
    engine_of,
    tensorflow_graph,
    tensorflow_probabilities,
    torch_model,
    torch_outputs,
    write_images,
    write_predictions,
    write_tensorflow_graph,
    write_torch_graph,
)
from onnx import TensorProto, helper

from misgiving.bundle.bundle import Bundle
from misgiving.bundle.graph_interface import GraphInterface
from misgiving.data.datasets.folders import image_names
from misgiving.errors import DataError, UsageError
from misgiving.results.prediction_tables import PredictionTable
from misgiving.workflows.export_graph import UNCHECKED, export_graph
from misgiving.workflows.predict import predict_images, predictor_of

TENSORFLOW = {"scale": 255.0, "crop_shape": "both", "outputs": "probabilities"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a torchvision model, its graph and its predictions."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def images(place):
    return write_images(place / "images", 240, seed=1)


@pytest.fixture(scope="module")
def new_images(place):
    return write_images(place / "new", 60, seed=2)


@pytest.fixture(scope="module")
def model(images):
    return torch_model(*images)


@pytest.fixture(scope="module")
def torch_files(place, images, model):
    graph = write_torch_graph(model, place / "net.onnx")
    outputs = torch_outputs(model, images[0]).numpy()
    return graph, write_predictions(place / "torch.csv", *images, outputs)


@pytest.fixture(scope="module")
def tensorflow_files(place, images):
    graph = write_tensorflow_graph(place / "tf.onnx")
    outputs = tensorflow_probabilities(images[0])
    return graph, write_predictions(place / "tf.csv", *images, outputs, prefix="probability")


def decisions_of(bundle, paths):
    return bundle.decide([path.read_bytes() for path in paths], [path.name for path in paths])


def assert_same_decisions(found, expected):
    assert [one.decision for one in found] == [one.decision for one in expected]
    assert [one.predicted_class for one in found] == [one.predicted_class for one in expected]
    for name in ("error_probability", "acceptance_score", "ood_p_value"):
        ours, theirs = ([getattr(one, name) for one in of] for of in (found, expected))
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


def test_a_torchvision_model_decides_through_the_bundle_as_on_its_predictions(
    torch_files, new_images, model, place, tmp_path
):
    graph, predictions = torch_files
    bundle, summary = export_graph(
        graph,
        tmp_path / "bundle",
        interface=GraphInterface(**TORCH),
        predictions=predictions,
        deferral=deferral(),
    )
    assert "32 images that were compared" in summary[-1]
    outputs = torch_outputs(model, new_images[0]).numpy()
    table = PredictionTable.read(write_predictions(place / "n.csv", *new_images, outputs))
    engine = engine_of(predictions)
    expected = engine.decide(table.predictions.logits, table.predictions.features)
    assert {one.decision for one in expected} >= {"accept", "defer"}
    assert_same_decisions(decisions_of(bundle, new_images[0]), expected)
    rows = predict_images(predictor_of(tmp_path / "bundle"), image_names([place / "new"]))
    assert [row.decision for row in rows] == [one.decision for one in expected]


def test_a_graph_with_the_channels_last_and_probabilities_decides_as_on_its_predictions(
    tensorflow_files, new_images, place, tmp_path
):
    graph, predictions = tensorflow_files
    bundle, _ = export_graph(
        graph,
        tmp_path / "bundle",
        interface=GraphInterface(**TENSORFLOW),
        predictions=predictions,
        deferral=deferral(),
    )
    outputs = tensorflow_probabilities(new_images[0])
    path = write_predictions(place / "m.csv", *new_images, outputs, prefix="probability")
    table = PredictionTable.read(path)
    engine = engine_of(predictions)
    expected = engine.decide(table.predictions.logits, table.predictions.features)
    assert {one.decision for one in expected} >= {"accept", "defer"}
    assert_same_decisions(decisions_of(bundle, new_images[0]), expected)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"batch": 1}, {}),
        ({"batch": 7}, {}),
        ({"kind": TensorProto.UINT8}, {}),
        ({"kind": TensorProto.FLOAT16}, {}),
        ({"opset": 13}, {}),
        ({"softmax": False}, {"outputs": "softmax"}),
    ],
)
def test_graphs_of_other_forms_give_the_same_decisions(
    tensorflow_files, new_images, tmp_path, options, settings
):
    graph = write_tensorflow_graph(tmp_path / "tf.onnx", **options)
    make = partial(export_graph, predictions=tensorflow_files[1], deferral=deferral())
    bundle, _ = make(
        graph, tmp_path / "bundle", interface=GraphInterface(**{**TENSORFLOW, **settings})
    )
    engine = engine_of(tensorflow_files[1])
    logits = np.log(np.maximum(tensorflow_probabilities(new_images[0]), 1e-12))
    expected = engine.decide(logits, np.zeros((len(logits), 0)))
    found = decisions_of(bundle, new_images[0])
    agree = [one.decision == other.decision for one, other in zip(found, expected, strict=True)]
    assert sum(agree) >= 59 if "kind" in options else all(agree)  # rounding at a threshold


def test_features_are_read_by_the_name_of_their_output(images, new_images, model, tmp_path):
    graph = write_torch_graph(WithFeatures(model).eval(), tmp_path / "net.onnx")
    logits, features = (of.numpy() for of in torch_outputs(WithFeatures(model), images[0]))
    table = {"logits": logits, "features": features, "label": images[1], "classes": CLASSES}
    table["set"] = np.repeat(["train", "tune", "calibrate"], 80)
    np.savez(tmp_path / "p.npz", **table, image=[str(path) for path in images[0]])
    named = {**TORCH, "logits_output": "scores", "features_output": "embedding"}
    bundle, _ = export_graph(
        graph,
        tmp_path / "bundle",
        interface=GraphInterface(**named),
        predictions=tmp_path / "p.npz",
        deferral=deferral(),
    )
    assert bundle.policy.ood_detector == "knn"
    engine = engine_of(tmp_path / "p.npz")
    new = [
        of.numpy().astype(np.float64) for of in torch_outputs(WithFeatures(model), new_images[0])
    ]
    assert_same_decisions(decisions_of(bundle, new_images[0]), engine.decide(*new))
    with pytest.raises(UsageError, match="has no output 'logits'; give one of scores, embedding"):
        export_graph(graph, tmp_path / "b", interface=GraphInterface(**TORCH),
                     predictions=tmp_path / "p.npz", deferral=deferral())  # fmt: skip


def test_features_that_the_graph_does_not_give_are_not_used(torch_files, images, tmp_path):
    table = PredictionTable.read(torch_files[1]).predictions
    features = np.random.default_rng(0).normal(size=(len(table), 5))
    np.savez(tmp_path / "p.npz", logits=table.logits, features=features, label=table.labels,
             classes=CLASSES, predicted_loss=features[:, 0])  # fmt: skip
    bundle, summary = export_graph(
        torch_files[0],
        tmp_path / "bundle",
        interface=GraphInterface(**TORCH),
        predictions=tmp_path / "p.npz",
        deferral=deferral(),
    )
    assert bundle.policy.ood_detector == "max_logit"
    assert ["features" in summary[0], "losses" in summary[1]] == [True, True]
    assert decisions_of(bundle, images[0][:2])[0].predicted_loss is None


def test_the_outputs_may_be_in_another_order_than_the_predictions(
    tensorflow_files, images, new_images, tmp_path
):
    graph, predictions = tensorflow_files
    order = [2, 0, 1]
    outputs = tensorflow_probabilities(images[0])[:, order]
    turned = write_predictions(
        images[0][0].parents[1] / "turned.csv",
        *images,
        outputs,
        prefix="probability",
        classes=[CLASSES[position] for position in order],
    )
    make = partial(export_graph, graph, deferral=deferral(), interface=GraphInterface(**TENSORFLOW))
    straight, _ = make(tmp_path / "b1", predictions=predictions)
    bundle, _ = make(tmp_path / "b2", predictions=turned, classes=CLASSES)
    assert bundle.classes == ("c", "a", "b")
    assert_same_decisions(
        decisions_of(bundle, new_images[0]), decisions_of(straight, new_images[0])
    )
    with pytest.raises(DataError, match="are not those of the graph"):
        make(tmp_path / "b3", predictions=turned)


def test_a_policy_that_is_given_is_used_and_the_predictions_are_compared(
    tensorflow_files, new_images, tmp_path
):
    graph, predictions = tensorflow_files
    fitted = deferral().fit(PredictionTable.read(predictions))
    fitted.save(tmp_path / "policy")
    engine = fitted.engine_
    make = partial(export_graph, graph, policy=tmp_path / "policy")
    interface = GraphInterface(**TENSORFLOW)
    bundle, summary = make(tmp_path / "b1", interface=interface, predictions=predictions)
    assert "32 images" in summary[-1]
    logits = np.log(np.maximum(tensorflow_probabilities(new_images[0]), 1e-12))
    expected = engine.decide(logits, np.zeros((len(logits), 0)))
    assert_same_decisions(decisions_of(bundle, new_images[0]), expected)
    _, summary = make(tmp_path / "b2", interface=interface)
    assert summary == [f"Warning: {UNCHECKED}"]
    assert UNCHECKED in (tmp_path / "b2" / "card.md").read_text()
    assert UNCHECKED not in (tmp_path / "b1" / "card.md").read_text()


@pytest.mark.parametrize("compared", [True, False])
def test_a_policy_of_logits_is_refused_for_a_graph_of_probabilities(
    tensorflow_files, tmp_path, compared
):
    graph, predictions = tensorflow_files
    probabilities = PredictionTable.read(predictions).predictions
    table = {"logits": probabilities.logits, "classes": CLASSES, "label": probabilities.labels}
    deferral().fit(PredictionTable.from_columns(table)).save(tmp_path / "policy")
    with pytest.raises(UsageError, match="policy has logits, and `outputs` is probabilities"):
        export_graph(graph, tmp_path / "b", policy=tmp_path / "policy",
                     interface=GraphInterface(**TENSORFLOW),
                     predictions=predictions if compared else None)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mean": (0.0,)}, "most for .* check how images are preprocessed"),
        ({"channel_order": "bgr"}, "are not those of the graph"),
        ({"crop": 1.0}, "are not those of the graph"),
        ({"interpolation": "bicubic"}, "are not those of the graph"),
    ],
)
def test_predictions_of_other_preprocessing_are_refused(torch_files, tmp_path, changes, says):
    graph, predictions = torch_files
    with pytest.raises(DataError, match=says):
        export_graph(graph, tmp_path / "bundle", interface=GraphInterface(**{**TORCH, **changes}),
                     predictions=predictions, deferral=deferral())  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_thresholds_and_classes_are_metadata_of_the_graph(tensorflow_files, tmp_path, exported):
    bundle, _ = export_graph(
        tensorflow_files[0],
        tmp_path / "bundle",
        interface=GraphInterface(**TENSORFLOW),
        predictions=tensorflow_files[1],
        deferral=deferral(),
    )
    for place, policy in ((tmp_path / "bundle", bundle.policy), (exported[1], None)):
        session = onnxruntime.InferenceSession(place / "model.onnx")
        found = session.get_modelmeta().custom_metadata_map
        policy = policy or Bundle.load(place).policy
        assert json.loads(found["misgiving.classes"]) == ["a", "b", "c"]
        assert float(json.loads(found["misgiving.accept_threshold"])) == policy.accept_threshold
        assert json.loads(found["misgiving.ood_threshold"]) == policy.ood_threshold
        assert json.loads(found["misgiving.targets"])["max_error"] == policy.targets.max_error
        assert json.loads(found["misgiving.fingerprint"]) == policy.model_fingerprint


def ending_in(*steps):
    """The graph with nodes after its probabilities; each is an operator, inputs and an output."""
    model = tensorflow_graph()
    model.graph.node.extend(
        helper.make_node(operator, inputs, [output], **attributes)
        for operator, inputs, output, attributes in steps
    )
    model.graph.output[0].name = steps[-1][2]
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for _ in range(2):
        model.graph.output[0].type.tensor_type.shape.dim.add()
    return model


P = "probabilities"
BROKEN = {
    "NaN or infinite": [("Sub", [P, P], "zero", {}), ("Div", ["zero", "zero"], "end", {})],
    "in a second run": [("RandomUniformLike", [P], "x", {}), ("Softmax", ["x"], "end", {})],
    "depend on the other images": [
        ("ReduceMean", ["dense"], "mean", {"axes": [0]}),
        ("Sub", ["dense", "mean"], "moved", {}),
        ("Softmax", ["moved"], "end", {}),
    ],
    "do not add up to 1": [("Add", ["dense", "dense"], "end", {})],
    "has 6 outputs, and there are 3": [("Concat", [P, P], "end", {"axis": 1})],
    "gives 1 logits for 3 images": [("ReduceMean", [P], "end", {"axes": [0]})],
}


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("says", BROKEN)
def test_a_dry_run_shows_what_is_wrong_and_nothing_is_written(tensorflow_files, tmp_path, says):
    onnx.save(ending_in(*BROKEN[says]), tmp_path / "tf.onnx")
    with pytest.raises((DataError, UsageError), match=says):
        export_graph(tmp_path / "tf.onnx", tmp_path / "bundle", predictions=tensorflow_files[1],
                     deferral=deferral(), interface=GraphInterface(**TENSORFLOW))  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["tf.onnx"]


def test_probabilities_that_are_said_to_be_logits_are_refused(tensorflow_files, tmp_path):
    interface = GraphInterface(**{**TENSORFLOW, "outputs": "logits"})
    with pytest.raises(UsageError, match="gives probabilities"):
        export_graph(tensorflow_files[0], tmp_path / "b", predictions=tensorflow_files[1],
                     deferral=deferral(), interface=interface)  # fmt: skip


def test_predictions_of_the_other_kind_are_refused(tensorflow_files, images, tmp_path):
    outputs, folder = tensorflow_probabilities(images[0]), tensorflow_files[1].parent
    predictions = write_predictions(folder / "of-logits.csv", images[0], images[1], outputs)
    with pytest.raises(UsageError, match="logits, and `outputs` is probabilities"):
        export_graph(tensorflow_files[0], tmp_path / "b", predictions=predictions,
                     deferral=deferral(), interface=GraphInterface(**TENSORFLOW))  # fmt: skip


def test_a_policy_that_reads_features_needs_the_name_of_their_output(
    torch_files, images, model, tmp_path
):
    logits, features = (of.numpy() for of in torch_outputs(WithFeatures(model), images[0]))
    table = {"logits": logits, "features": features, "label": images[1], "classes": CLASSES}
    table["set"] = np.repeat(["train", "tune", "calibrate"], 80)
    deferral().fit(PredictionTable.from_columns(table)).save(tmp_path / "policy")
    with pytest.raises(
        UsageError, match=r"needs the features of an image, for knn; .*features_out"
    ):
        export_graph(torch_files[0], tmp_path / "b", interface=GraphInterface(**TORCH),
                     policy=tmp_path / "policy")  # fmt: skip


def test_an_image_that_is_missing_is_named(tensorflow_files, images, tmp_path):
    outputs = tensorflow_probabilities(images[0][:8])
    elsewhere = [tmp_path / path.name for path in images[0][:8]]
    predictions = write_predictions(
        tmp_path / "p.csv", elsewhere, images[1][:8], outputs, prefix="probability"
    )
    with pytest.raises(DataError, match=r"000\.png"):
        export_graph(tensorflow_files[0], tmp_path / "b", predictions=predictions,
                     deferral=deferral(), interface=GraphInterface(**TENSORFLOW))  # fmt: skip


def test_other_classes_are_refused(tensorflow_files, tmp_path):
    with pytest.raises(UsageError, match="`classes` are a, b, d, and those of the predictions a"):
        export_graph(tensorflow_files[0], tmp_path / "b", predictions=tensorflow_files[1],
                     deferral=deferral(), interface=GraphInterface(**TENSORFLOW),
                     classes=["a", "b", "d"])  # fmt: skip


def test_without_predictions_and_policy_nothing_is_exported(tensorflow_files, tmp_path):
    with pytest.raises(UsageError, match="give `predictions`"):
        export_graph(tensorflow_files[0], tmp_path / "b", interface=GraphInterface(**TENSORFLOW))
    with pytest.raises(UsageError, match="give `max_error`"):
        export_graph(tensorflow_files[0], tmp_path / "b", interface=GraphInterface(**TENSORFLOW),
                     predictions=tensorflow_files[1])  # fmt: skip
