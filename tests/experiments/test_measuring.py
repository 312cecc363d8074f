import threading

import numpy as np
import pytest
import torch
from coloured import split_of
from PIL import Image

from misgiving.checkpoint import Architecture, Checkpoint, load, save
from misgiving.data.datasets import ImageFiles
from misgiving.data.decoding import LOOK_AHEAD
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import UsageError
from misgiving.experiments.measuring import predict_images

COUNT = 5 * LOOK_AHEAD


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


@pytest.mark.parametrize("batch_size", [1, 7, COUNT, 1000])
def test_predictions_are_those_of_every_image_on_its_own(run, photos, batch_size):
    _, rows, _ = predict_images(run, [photos], device="cpu", batch_size=batch_size)
    checkpoint = load(run)
    checkpoint.model.double()
    expected = [on_its_own(checkpoint, path) for path in sorted(photos.iterdir())]
    assert [row[:2] for row in rows] == [tuple(row[:2]) for row in expected]
    numbers = [[float(value) for value in row[2:]] for row in rows]
    np.testing.assert_allclose(numbers, [row[2:] for row in expected], rtol=1e-3, atol=2e-6)


def test_files_are_decoded_while_the_model_runs_but_not_far_ahead(run, photos, monkeypatch):
    decoded, enough, waited, ahead = [], threading.Event(), [], []
    read = ImageFiles.preprocessed

    def watched(*arguments):
        decoded.append(arguments)
        if len(decoded) >= 2 * LOOK_AHEAD:
            enough.set()
        return read(*arguments)

    def see(done, _):
        waited.append(enough.wait(timeout=10))
        ahead.append(len(decoded) - done)

    monkeypatch.setattr(ImageFiles, "preprocessed", watched)
    predict_images(run, [photos], device="cpu", batch_size=LOOK_AHEAD + 1, on_image=see)
    assert all(waited)
    assert max(ahead) <= LOOK_AHEAD + 1


def test_progress_tells_how_many_images_are_predicted(run, photos):
    reports = []
    predict_images(
        run, [photos], device="cpu", batch_size=16, on_image=lambda *seen: reports.append(seen)
    )
    assert reports == [(min(done, COUNT), COUNT) for done in range(16, COUNT + 16, 16)]


def test_a_batch_size_below_one_is_refused(run, photos):
    with pytest.raises(UsageError, match="batch_size must be at least 1, got 0"):
        predict_images(run, [photos], device="cpu", batch_size=0)
