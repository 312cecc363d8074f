"""Bundles decide as their runs; those of which anything was changed are refused, or decide."""

import io
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice

import numpy as np
import onnx
import pytest
from bundled import SIDE, noisy_set
from onnx import TensorProto, helper
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from misgiving.bundle.bundle import Bundle
from misgiving.checkpoint import load
from misgiving.deferral.decisions import NUMBERS
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.expected_performance import expected_performance
from misgiving.errors import DataError, UsageError
from misgiving.files import seal, sha256_of_file, sha256_of_json
from misgiving.predictions.inference import predictions_of
from misgiving.predictions.network import OUTPUTS

POLICY = ("policy.json", "policy.safetensors")
FILES = ("README.md", "bundle.json", "card.json", "checksums.json", "model.onnx", *POLICY)

SQUARES = noisy_set(60, seed=21).images
OTHERS = (None, -1, 10**300, "Infinity", "NaN", [])


@pytest.fixture(scope="module")
def bundle(exported):
    return Bundle.load(exported[1], threads=1)


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported[1], tmp_path / "copied")


def test_a_bundle_decides_as_the_run_does(exported, bundle):
    """Decisions are equal; numbers to 3e-4 of the largest of their kind, as threads differ."""
    run, images = exported[0], noisy_set(200, seed=11)
    decisions = bundle.decide_inputs(images.images)
    assert {decision.decision for decision in decisions} == {"accept", "defer", "ood"}
    expected = Deferral.load(run / "policy").decide(predictions_of(load(run), images))
    for name in ("decision", "predicted_class"):
        assert [getattr(row, name) for row in decisions] == [getattr(row, name) for row in expected]
    for name in NUMBERS:
        values, of_run = ([getattr(row, name) for row in rows] for rows in (decisions, expected))
        if None in of_run:
            assert values == of_run
            continue
        np.testing.assert_allclose(values, of_run, rtol=0, atol=3e-4 * np.abs(of_run).max())


def test_a_decision_depends_neither_on_other_images_nor_on_other_threads(bundle):
    """Also across the batches that bound the memory."""
    squares = noisy_set(70, seed=13).images
    together = bundle.decide_inputs(squares)
    with ThreadPoolExecutor(8) as pool:
        alone = [*pool.map(lambda row: bundle.decide_inputs(squares[[row]])[0], range(70))]
    assert [row.decision for row in alone] == [row.decision for row in together]
    scores = [[row.acceptance_score for row in rows] for rows in (alone, together)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


@pytest.mark.usefixtures("as_in_use")
def test_no_image_gives_no_decision_and_others_than_images_are_refused(bundle):
    assert bundle.decide([], []) == []
    for shape in ((2, SIDE + 1, SIDE, 3), (SIDE, SIDE, 3)):
        with pytest.raises(UsageError):
            bundle.decide_inputs(np.zeros(shape, dtype=np.uint8))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(DataError, match=r"second\.png: not an image"):
        bundle.decide([file.getvalue(), b"no image"], ["first.png", "second.png"])


def test_a_bundle_has_the_policy_of_its_run_and_no_other_files(bundle, exported):
    run, folder = exported
    deferral = Deferral.load(run / "policy")
    assert bundle.classes == ("a", "b", "c")
    for name in ("certificate", "calibration", "rule", "fingerprint"):
        assert getattr(bundle.policy, name) == getattr(deferral.policy_, name)
    assert Deferral.load(folder).cases_ == deferral.cases_
    assert bundle.fingerprint == bundle.policy.model
    assert bundle.preprocessing == load(run).preprocessing
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_a_file_that_was_changed_or_does_not_belong_there_is_refused(copied, exported):
    card = (copied / "card.json").read_bytes()
    (copied / "card.json").write_bytes(b" " + card)
    with pytest.raises(DataError):
        Bundle.load(copied)
    (copied / "card.json").write_bytes(card)
    (copied / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes\.txt"):
        Bundle.load(copied)
    (copied / "notes.txt").unlink()
    (copied / "README.md").write_text("with a licence")
    (copied / ".gitattributes").write_text("added by a hub")
    Bundle.load(copied)
    with pytest.raises(DataError):
        Bundle.load(exported[0])


def changed(value):
    """The JSON value, each value in it in turn left out or replaced; of lists, the first alone."""
    if isinstance(value, dict):
        for key in value:
            yield {other: value[other] for other in value if other != key}
            yield from ({**value, key: other} for other in (*OTHERS, *changed(value[key])))
    elif isinstance(value, list) and value:
        yield value[1:]
        yield from ([other, *value[1:]] for other in (*OTHERS, *changed(value[0])))


def changed_arrays(arrays):
    """The arrays with each in turn left out, with another value, or of another shape or kind."""
    for name, array in arrays.items():
        yield {key: arrays[key] for key in arrays if key != name}
        made = [array[None], array.astype("f2"), array.astype("?"), array.reshape(-1)[:0]]
        made += [np.concatenate([array, array[:1]]), array[:-1], array.T] if array.ndim else []
        made += [array[..., :-1]] if array.ndim == 2 else []
        for value in (np.nan, np.inf, 1e300, -7, 7):
            made.append(array.astype("i8" if array.ndim == 0 and value in (-7, 7) else "f8"))
            made[-1].reshape(-1)[0] = value
        for other in made:
            yield {**arrays, name: np.ascontiguousarray(other).reshape(other.shape)}


def changed_graphs(file):
    """The graph with each output in turn left out or in another shape, and with a huge constant."""
    for at, name in enumerate(OUTPUTS):
        model = onnx.load(file)
        del model.graph.output[at]
        yield model
        flat = helper.make_node("Flatten", [f"{name}_"], [name], axis=0)
        yield with_nodes(onnx.load(file), name, [flat])
    size = helper.make_tensor("", TensorProto.INT64, [1], [4 * 10**10])
    huge = [
        helper.make_node("Constant", [], ["size"], value=size),
        helper.make_node("ConstantOfShape", ["size"], ["logits"]),
    ]
    yield with_nodes(onnx.load(file), "logits", huge)


def with_nodes(model, name, nodes):
    """The model with nodes that make an output of what it was before, which ends in `_`."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{each}_" if each == name else each for each in names]
    model.graph.node.extend(nodes)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def is_refused(folder):
    """Load a bundle whose files were changed, and decide if it is not refused by a file's name."""
    policy = folder / "policy.json"
    with suppress(ValueError, TypeError, RecursionError):
        content = json.loads(policy.read_text())
        content |= {"detectors": sha256_of_file(folder / "policy.safetensors")}
        content.pop("checksum", None)
        policy.write_text(json.dumps({**content, "checksum": sha256_of_json(content)}))
    seal(folder, sorted({path.name for path in folder.iterdir()} - {"checksums.json", "README.md"}))
    refusal, bundle = "", None
    try:
        bundle = Bundle.load(folder, threads=1)
    except DataError as error:
        refusal = str(error)
    if bundle is None:
        assert re.fullmatch(rf"{folder}/\w+\.\w+: [^\n]+", refusal), refusal
    else:
        decisions = bundle.decide_inputs(SQUARES)
        names = tuple(map(str, range(len(decisions))))
        expected_performance(bundle.policy, replace(decisions, ids=names).to_frame())
    return bundle is None


def damages(test):
    """Without shape checks of the test run; numbers may overflow."""
    test = pytest.mark.filterwarnings("ignore::RuntimeWarning")(test)
    return pytest.mark.usefixtures("as_in_use")(test)


EVERY = pytest.mark.parametrize(
    "step", [pytest.param(8, id="some"), pytest.param(1, id="all", marks=pytest.mark.soak)]
)


@damages
@EVERY
@pytest.mark.parametrize("name", ["bundle.json", "policy.json"])
def test_any_changed_value_is_refused_or_harmless(copied, name, step):
    refused = []
    for content in islice(changed(json.loads((copied / name).read_text())), 0, None, step):
        (copied / name).write_text(json.dumps(content))
        refused.append(is_refused(copied))
    assert 0.5 < np.mean(refused) < 1


def test_a_policy_without_its_cases_is_refused(copied):
    content = json.loads((copied / "policy.json").read_text())
    for name in ("scores", "errors", "kept", "error_probabilities", "ood_scores"):
        content["certificate"][name] = []
    (copied / "policy.json").write_text(json.dumps(content))
    assert is_refused(copied)


@damages
@EVERY
def test_any_changed_array_of_the_policy_is_refused_or_harmless(copied, step):
    file, refused = copied / "policy.safetensors", []
    with safe_open(file, "np") as opened:
        facts = opened.metadata()
    arrays = load_file(file)
    for made in islice(changed_arrays(arrays), 0, None, step):
        save_file(made, file, facts)
        refused.append(is_refused(copied))
    assert 0.5 < np.mean(refused) < 1
    for damaged in (None, {"facts": '{"names": ["x"], "probes": []}'}, {"facts": "[]"}):
        save_file(arrays, file, damaged)
        assert is_refused(copied)


@damages
def test_a_graph_that_gives_something_else_than_the_policy_reads_is_refused(exported, copied):
    refused = []
    for model in changed_graphs(exported[1] / "model.onnx"):
        onnx.save(model, copied / "model.onnx")
        refused.append(is_refused(copied))
    assert refused == [True, True, False, *[True] * 6]  # the policy reads no predicted loss


@damages
def test_a_file_of_another_kind_is_refused_and_a_pipe_is_not_read(copied):
    for name in ("bundle.json", "policy.json", "card.json", "model.onnx", "policy.safetensors"):
        original = (copied / name).rename(copied.parent / "original")
        for content in (b"", b"1", b"{}", b"[" * 100_000):
            (copied / name).write_bytes(content)
            assert is_refused(copied) or (name, content) == ("card.json", b"{}")
        (copied / name).unlink()
        os.mkfifo(copied / name)
        with pytest.raises(DataError, match=rf"{name}: .*not an ordinary file"):
            Bundle.load(copied)
        (copied / name).unlink()
        original.rename(copied / name)
