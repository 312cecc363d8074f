import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundled import noisy_set, policy_of
from PIL import Image

from misgiving.bundle import decide_files as deciding
from misgiving.bundle.decide_files import decide_files, load_model
from misgiving.checkpoint import load
from misgiving.data.decoding import LOOK_AHEAD, BadImagesError
from misgiving.deferral.decisions import NUMBERS, OF_CLASS
from misgiving.errors import DataError
from misgiving.predictions import inference

COUNT = 5 * LOOK_AHEAD


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Pictures of which each has a size of its own; some are reduced when decoded."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(COUNT):
        pixels = random.integers(0, 256, (20 + number, 100 - number, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return sorted(map(str, folder.iterdir()))


def on_its_own(checkpoint, name):
    """Row of an image that is decoded, preprocessed and classified alone, in float64."""
    square = checkpoint.preprocessing.from_file(Path(name).read_bytes(), name)
    image = torch.from_numpy(square).permute(2, 0, 1)[None].double() / 255
    with torch.no_grad():
        logits, losses, _ = checkpoint.model(image)
    probability, choice = logits[0].softmax(dim=0).max(dim=0)
    return name, checkpoint.classes[choice], probability.item(), losses.item()


@pytest.mark.parametrize("batch_size", [7, COUNT])
def test_predictions_are_those_of_every_image_on_its_own(exported, names, batch_size, tmp_path):
    without_policy, reports = shutil.ignore_patterns("policy"), []
    run = shutil.copytree(exported[0], tmp_path / "run", ignore=without_policy)
    options = {"batch_size": batch_size, "on_image": lambda *seen: reports.append(seen)}
    predicted = decide_files(load_model(run, device="cpu"), names, tmp_path / "parts", **options)
    assert reports == [
        (min(done, COUNT), COUNT) for done in range(batch_size, COUNT + batch_size, batch_size)
    ]
    checkpoint = load(run)
    checkpoint.model.double()
    expected = [on_its_own(checkpoint, name) for name in names]
    texts = predicted[["path", "predicted_class"]]
    assert [*texts.itertuples(index=False, name=None)] == [row[:2] for row in expected]
    numbers = predicted[["probability", "predicted_loss"]]
    np.testing.assert_allclose(numbers, [row[2:] for row in expected], rtol=1e-3, atol=2e-6)


def assert_the_same(ours, theirs):
    """Numbers agree as far as float32 does in two libraries."""
    texts = ["path", "predicted_class", "decision"]
    assert ours[texts].values.tolist() == theirs[texts].values.tolist()
    numbers = [*NUMBERS, *(name for name in theirs if name.startswith(OF_CLASS))]
    np.testing.assert_allclose(ours[numbers], theirs[numbers], rtol=2e-3)


def test_a_bundle_and_the_graph_of_the_run_answer_as_the_run_does(
    exported, names, monkeypatch, tmp_path
):
    """A graph is written for many images, and for one less it is not."""
    run, bundle = exported
    size = load(run).architecture.image_size
    monkeypatch.setattr(inference, "PAYS", COUNT * size**2)
    graph = bundle / "model.onnx"  # which takes long to write
    monkeypatch.setattr(inference, "write_graph", lambda _, path, **__: shutil.copy(graph, path))
    run = shutil.copytree(run, tmp_path / "run")
    by_run = decide_files(load_model(run, count=COUNT - 1, device="cpu"), names, tmp_path / "1")
    assert not (run / "model.onnx").exists()
    assert_the_same(decide_files(load_model(bundle), names, tmp_path / "2"), by_run)
    by_graph = load_model(run, count=COUNT, device="cpu")
    assert_the_same(decide_files(by_graph, names, tmp_path / "3"), by_run)
    assert (run / "model.onnx").exists()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Pictures of the kind that the policy was calibrated with."""
    folder = tmp_path_factory.mktemp("alike")
    for number, pixels in enumerate(noisy_set(60, seed=31).images):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return sorted(map(str, folder.iterdir()))


@pytest.fixture(scope="module")
def average(exported):
    """The bundle with a policy that decides batches."""
    deferral = policy_of(load(exported[0]), guarantee="average")
    return replace(load_model(exported[1]), policy=deferral.policy_)


def test_a_stopped_command_resumes_and_decides_all_parts_as_one_batch_in_any_order(
    average, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(deciding, "PART", 20)  # fewer than a batch needs
    inputs = np.stack([average.model_inputs(Path(name).read_bytes(), name)[0] for name in photos])
    whole = average.decide_inputs(inputs).to_frame().assign(path=photos)
    assert {*whole["decision"]} >= {"accept", "defer"}

    def stop(done, _):
        if done > 35:
            raise KeyboardInterrupt

    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        decide_files(average, photos, parts, batch_size=9, on_image=stop)
    assert len([*parts.iterdir()]) == 1
    seen = []
    options = {"batch_size": 9, "on_image": lambda done, _: seen.append(done)}
    resumed = decide_files(average, photos, parts, **options)
    assert seen == [20, 29, 38, 40, 49, 58, 60]
    assert_the_same(resumed, whole)
    assert_the_same(decide_files(average, photos[::-1], tmp_path / "turned"), whole[::-1])
    with pytest.raises(DataError):
        decide_files(average, photos[:49], parts)


def test_images_that_cannot_be_read_change_no_other_decision_also_where_a_part_has_no_other(
    average, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(deciding, "PART", 2)
    expected = decide_files(average, photos, tmp_path / "whole")
    broken = [str(tmp_path / f"{number}.png") for number in range(3)]
    for name in broken:
        Path(name).write_bytes(b"no image")
    names = [photos[0], broken[0], *photos[1:3], *broken[1:], *photos[3:]]
    decided = decide_files(average, names, tmp_path / "parts", on_bad_image="skip")
    assert decided["path"].tolist() == names
    assert decided["path"][decided["unreadable"].notna()].tolist() == broken
    assert decided["decision"].isna().equals(decided["unreadable"].notna())
    assert_the_same(decided[decided["unreadable"].isna()], expected)
    with pytest.raises(BadImagesError, match="3 of 63 images cannot be read"):
        decide_files(average, names, tmp_path / "parts")
    batch = [f"{tmp_path}/{number} is missing" for number in range(50)]  # as the guarantee needs
    with pytest.raises(BadImagesError, match="50 of 50 images cannot be read"):
        decide_files(average, batch, tmp_path / "none", on_bad_image="skip")


def test_an_image_that_has_changed_is_decided_on_again(exported, names, tmp_path):
    model, path, parts = load_model(exported[1]), tmp_path / "photo.png", tmp_path / "parts"
    path.write_bytes(b"no image")
    both = [str(path), names[0]]
    rows = decide_files(model, both, parts, on_bad_image="skip")
    assert rows["unreadable"].notna().tolist() == [True, False]
    for number in (0, 2):
        path.write_bytes(Path(names[number]).read_bytes())
        again = decide_files(model, both[:1], parts)
        assert again.equals(decide_files(model, both[:1], tmp_path / str(number)))
