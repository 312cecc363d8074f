import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from bundled import SIDE, noisy_set
from PIL import Image

from misgiving.bundle.bundle import Bundle
from misgiving.checkpoint import load
from misgiving.data.cache import prepare
from misgiving.data.datasets import unlabelled_images
from misgiving.deferral.decisions import NO_POLICY, NUMBERS
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError, UsageError
from misgiving.files import seal
from misgiving.predictions.inference import predictions_of

POLICY = ("policy.json", "policy.safetensors")
FILES = ("README.md", "bundle.json", "card.json", "checksums.json", "model.onnx", *POLICY)


@pytest.fixture(scope="module")
def bundle(exported):
    return Bundle.load(exported[1], threads=1)


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported[1], tmp_path / "copied")


def assert_decides_as_the_run(decisions, run, images):
    """Decisions are equal; numbers to 3e-4 of the largest of their kind, as threads differ."""
    policy = Deferral.load(run / "policy")
    expected = policy.decide(predictions_of(load(run), images))
    for name in ("decision", "predicted_class"):
        assert [getattr(row, name) for row in decisions] == [getattr(row, name) for row in expected]
    for name in NUMBERS:
        values, of_run = ([getattr(row, name) for row in rows] for rows in (decisions, expected))
        np.testing.assert_allclose(values, of_run, rtol=0, atol=3e-4 * np.abs(of_run).max())


def test_a_bundle_decides_on_drawn_images_as_the_run_does(exported, bundle):
    images = noisy_set(200, seed=11)
    decisions = bundle.decide_inputs(images.images)
    assert {decision.decision for decision in decisions} == {"accept", "defer", "ood"}
    assert_decides_as_the_run(decisions, exported[0], images)


def test_a_bundle_decides_on_real_images_as_the_run_does(exported, bundle, real_data, tmp_path):
    lesions = sorted((real_data / "isic2019-mini" / "ISIC_2019_Training_Input").iterdir())[:40]
    files = [*lesions, *sorted((real_data / "ood" / "clinical_skin").iterdir())[:10]]
    decisions = bundle.decide([path.read_bytes() for path in files], [path.name for path in files])
    images = prepare(unlabelled_images(files, name="real"), bundle.preprocessing, cache=tmp_path)
    assert_decides_as_the_run(decisions, exported[0], replace(images, classes=bundle.classes))


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


def test_a_bundle_without_a_policy_defers_every_image(copied):
    for name in POLICY:
        (copied / name).unlink()
    (copied / "checksums.json").unlink()
    seal(copied)
    bundle = Bundle.load(copied)
    squares = noisy_set(5, seed=16).images
    logits = torch.from_numpy(bundle.network(squares).logits).double()
    for row, expected in zip(bundle.decide_inputs(squares), logits.softmax(1), strict=True):
        assert (row.decision, row.reason) == ("defer", NO_POLICY)
        assert list(row.probabilities.values()) == pytest.approx(expected.tolist())
