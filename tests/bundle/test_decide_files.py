import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from coloured import split_of
from PIL import Image

from misgiving.bundle.decide_files import Decider, decide_files
from misgiving.checkpoint import Architecture, Checkpoint, load, save
from misgiving.data.datasets.folders import image_names
from misgiving.data.decoding import LOOK_AHEAD
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import UsageError
from misgiving.predictions import graphs

COUNT = 5 * LOOK_AHEAD


@pytest.fixture
def decide(tmp_path):
    """Decides on files, with the parts in this folder, or in a new one."""

    def decided(decider, names, parts=None, **options):
        folder = tmp_path / f"parts-{len(list(tmp_path.iterdir()))}" if parts is None else parts
        return decide_files(decider, names, folder, **options)

    return decided


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of pictures; each has a size of its own, and some are reduced when decoded."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(COUNT):
        pixels = random.integers(0, 256, (20 + number, 100 - number, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.{('png', 'jpg')[number % 2]}")
    return folder


@pytest.fixture
def run(images, tmp_path):
    """An untrained model of three classes, as a run folder."""
    architecture = Architecture(backbone="vgg16_mini", num_classes=3, image_size=16)
    checkpoint = Checkpoint(
        model=architecture.build(),
        architecture=architecture,
        classes=images.classes,
        preprocessing=Preprocessing(image_size=16),
        split=split_of(images, ["validation"] * len(images)),
        class_weights=(1.0, 1.0, 1.0),
        estimates_losses=True,
    )
    save(tmp_path / "run", checkpoint)
    return tmp_path / "run"


def on_its_own(checkpoint, path):
    """Row of an image that is decoded, preprocessed and classified alone, in float64."""
    square = checkpoint.preprocessing.from_file(path.read_bytes(), str(path))
    image = torch.from_numpy(square).permute(2, 0, 1)[None].double() / 255
    with torch.no_grad():
        logits, losses, _ = checkpoint.model(image)
    probability, choice = logits[0].softmax(dim=0).max(dim=0)
    return [str(path), checkpoint.classes[choice], probability.item(), losses.item()]


@pytest.mark.parametrize("batch_size", [7, COUNT])
def test_predictions_are_those_of_every_image_on_its_own(run, photos, batch_size, decide):
    reports = []
    predicted = decide(
        Decider.load(run, device="cpu"),
        image_names([photos]),
        batch_size=batch_size,
        on_image=lambda *seen: reports.append(seen),
    )
    assert reports == [
        (min(done, COUNT), COUNT) for done in range(batch_size, COUNT + batch_size, batch_size)
    ]
    checkpoint = load(run)
    checkpoint.model.double()
    expected = [on_its_own(checkpoint, path) for path in sorted(photos.iterdir())]
    assert [row[:2] for row in predicted] == [tuple(row[:2]) for row in expected]
    numbers = [row[2:4] for row in predicted]
    np.testing.assert_allclose(numbers, [row[2:] for row in expected], rtol=1e-3, atol=2e-6)


def test_files_are_decoded_while_the_model_runs_but_not_far_ahead(run, photos, monkeypatch, decide):
    decoded, enough, waited, ahead = [], threading.Event(), [], []
    read = Preprocessing.from_file

    def watched(*arguments):
        decoded.append(arguments)
        if len(decoded) >= 2 * LOOK_AHEAD:
            enough.set()
        return read(*arguments)

    def see(done, _):
        waited.append(enough.wait(timeout=120))
        ahead.append(len(decoded) - done)

    monkeypatch.setattr(Preprocessing, "from_file", watched)
    decide(
        Decider.load(run, device="cpu"),
        image_names([photos]),
        batch_size=LOOK_AHEAD + 1,
        on_image=see,
    )
    assert all(waited)
    assert max(ahead) <= LOOK_AHEAD + 1


def assert_the_same(ours, theirs):
    """Numbers agree as far as float32 does in two libraries."""
    assert [row[:2] + row[4:5] for row in ours] == [row[:2] + row[4:5] for row in theirs]
    numbers = [[*row[2:4], *row[6:-1]] for row in ours]
    np.testing.assert_allclose(numbers, [[*row[2:4], *row[6:-1]] for row in theirs], rtol=2e-3)


def test_a_bundle_and_the_graph_of_the_run_answer_as_the_run_does(
    exported, photos, monkeypatch, tmp_path, decide
):
    """A graph is written for many images, and for one less it is not."""
    run, bundle = exported
    size = load(run).architecture.image_size
    monkeypatch.setattr(graphs, "PAYS", COUNT * size**2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = image_names([photos])
    by_run = decide(Decider.load(run, count=COUNT - 1, device="cpu"), names)
    assert not [*tmp_path.glob("misgiving/graphs/*.onnx")]
    assert_the_same(decide(Decider.load(bundle), names), by_run)
    assert_the_same(decide(Decider.load(run, count=COUNT, device="cpu"), names), by_run)
    assert len([*tmp_path.glob("misgiving/graphs/*.onnx")]) == 1


def test_parts_that_are_there_are_not_decided_on_again(
    exported, photos, decide, tmp_path, monkeypatch
):
    monkeypatch.setattr("misgiving.bundle.decide_files.PART", 7)
    decider, names, parts, asked = (
        Decider.load(exported[1]),
        image_names([photos]),
        tmp_path / "p",
        [],
    )
    network = decider.model.network

    def counted(squares):
        asked.append(len(squares))
        return network(squares)

    counting = decider._replace(model=replace(decider.model, network=counted))
    decide(counting, names[:14], parts)
    whole = decide(counting, names, parts)
    assert sum(asked) == COUNT
    assert [row.path for row in whole] == names
    expected = decide(decider, names)
    for ours, theirs in zip(whole, expected, strict=True):
        assert ours.decision == theirs.decision
        assert ours.acceptance_score == pytest.approx(theirs.acceptance_score, rel=1e-4)


def test_an_image_that_has_changed_is_decided_on_again(exported, photos, decide, tmp_path):
    path, parts = tmp_path / "photo.png", tmp_path / "p"
    names = sorted(photos.iterdir())
    path.write_bytes(b"no image")
    both = [str(path), str(names[0])]
    rows = decide(Decider.load(exported[1]), both, parts, on_bad_image="skip")
    assert [bool(row.unreadable) for row in rows] == [True, False]
    for source in names[0], names[2]:
        path.write_bytes(source.read_bytes())
        (row,) = decide(Decider.load(exported[1]), [str(path)], parts)
        assert [row] == [*decide(Decider.load(exported[1]), [str(path)])]


def test_numbers_that_are_not_finite_are_not_there(exported, photos, decide):
    decider = Decider.load(exported[1])

    def broken(squares):
        return tuple(np.full_like(of, np.nan) for of in decider.model.network(squares))

    rows = decide(
        decider._replace(model=replace(decider.model, network=broken)), image_names([photos])
    )
    assert {row.probability for row in rows} == {None}


def test_a_bundle_refuses_another_device_and_several_processes(exported):
    for options in ({"device": "cuda"}, {"devices": 2}, {"nodes": 2}):
        with pytest.raises(UsageError, match=next(iter(options))):
            Decider.load(exported[1], **options)
