"""JPEG photographs of any number and size, and an untrained model, for comparisons."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from misgiving.checkpoint import Architecture, Checkpoint, TrainingData
from misgiving.data.datasets import unlabelled_images
from misgiving.data.preprocessing import Preprocessing
from misgiving.data.splits import Split
from misgiving.reproduction.ood_sets import HISTOLOGY, PHOTOGRAPHS

CLASSES = tuple("abcdefgh")
CROP = 0.8  # share of each side that a crop keeps
QUALITY = 90


def write_pictures(
    folder: Path, *, count: int, size: tuple[int, int], source: Path | None = None
) -> list[Path]:
    """Write JPEG files of this width and height, and return their paths.

    They are crops of scikit-image's photographs, or of images evenly chosen below `source`. Each
    crop is at a different place, so that no two files are equal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    originals = _originals(count, source)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        part = _part_of(originals[number % len(originals)], random)
        part.resize(size, Image.Resampling.LANCZOS).save(path, quality=QUALITY)
    return paths


def _originals(count: int, source: Path | None) -> list[Image.Image]:
    if source is None:
        shipped = files("skimage") / "data"
        paths = [Path(str(shipped / name)) for name in (*PHOTOGRAPHS, *HISTOLOGY)]
    else:
        paths = [Path(name) for name in unlabelled_images([source], name="pictures").ids]
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [Image.open(paths[position]).convert("RGB") for position in chosen]


def _part_of(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = (round(CROP * side) for side in picture.size)
    left = int(random.integers(picture.width - width + 1))
    top = int(random.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def untrained(backbone: str, image_size: int) -> Checkpoint:
    """A model with random weights and a split, since a run folder has one."""
    torch.manual_seed(0)
    architecture = Architecture(backbone=backbone, num_classes=len(CLASSES), image_size=image_size)
    return Checkpoint(
        model=architecture.build().eval(),
        architecture=architecture,
        classes=CLASSES,
        preprocessing=Preprocessing(image_size=image_size),
        split=Split(ids=("0",), hashes=("0" * 64,), sets=("train",), labels=("a",), groups=("0",)),
        class_weights=(1.0,) * len(CLASSES),
        estimates_losses=True,
        data=TrainingData(name="drawn", fingerprint=""),
    )
