"""Malicious files are refused, and nothing in them is executed."""

import pickle
import zipfile

import numpy as np
import pytest
from commands import one_line
from corpus import Mark

from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors


@pytest.fixture
def mark(tmp_path):
    """A trap; the test fails if it was sprung."""
    yield Mark(tmp_path / "executed")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("p.safetensors", FittedDetectors.load),
        *((f"p.{suffix}", Predictions.read) for suffix in ("npz", "parquet", "csv")),
    ],
)
def test_a_pickle_offered_as_predictions_or_detectors_is_refused(tmp_path, mark, name, load):
    (tmp_path / name).write_bytes(pickle.dumps({"weight": mark}))
    with pytest.raises(DataError, match=name):
        load(tmp_path / name)


PARTS = [f"{name}_{kind}" for name in ("train", "val", "test") for kind in ("images", "labels")]


@pytest.mark.parametrize("part", ["train_images", "val_labels", "members"])
def test_objects_offered_as_medmnist_are_refused(misgiving, tmp_path, mark, part):
    if part == "members":
        with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
            for name in PARTS:
                archive.writestr(f"{name}.npy", pickle.dumps(mark))
    else:
        shapes = {name: (4, 8, 8) if "images" in name else (4, 1) for name in PARTS}
        arrays = {name: np.zeros(shape, dtype=np.uint8) for name, shape in shapes.items()}
        np.savez(tmp_path / "m.npz", **arrays | {part: np.array([mark] * 4, dtype=object)})
    code, _, error = misgiving("data", "prepare", f"medmnist:{tmp_path / 'm.npz'}")
    assert code == 1
    assert "m.npz: " in one_line(error)
