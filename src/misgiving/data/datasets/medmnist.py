"""`medmnist:` data: an `.npz` file of MedMNIST (Yang et al., 2023)."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from misgiving.data.datasets.dataset import DERMOSCOPY_AUGMENTATION, Dataset
from misgiving.data.datasets.npz import AGAIN, Member, PackedImages, members
from misgiving.data.preprocessing import LARGEST_SIDE, AugmentationSettings, Preprocessing
from misgiving.errors import DataError, explain_damage

SETS = ("train", "val", "test")


class Known(NamedTuple):
    """Facts about the files whose names start in a certain way."""

    classes: tuple[str, ...]
    augmentation: AugmentationSettings
    remark: str


KNOWN = {
    "dermamnist": Known(
        ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"),
        DERMOSCOPY_AUGMENTATION,
        "; the file does not identify lesions, and its sets share some",
    ),
    "pathmnist": Known(
        ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
        AugmentationSettings.none(),
        "; the file does not identify patients",
    ),
}
UNKNOWN = Known((), AugmentationSettings.none(), "")


def read_medmnist(place: str) -> Dataset:
    """All three sets of a MedMNIST file; classes without images are left out.

    The images stay in the file. Each is its own group, as lesions and patients are not identified.
    """
    path = Path(place).expanduser()
    arrays = members(path)
    known = next((fact for start, fact in KNOWN.items() if path.name.startswith(start)), UNKNOWN)
    images = tuple(_images(arrays, f"{name}_images", path) for name in SETS)
    labels = np.concatenate([_labels(arrays, name, path) for name in SETS])
    size = _size(images, path)
    classes = _class_names(labels, known, path)
    present = np.unique(labels)
    ids = tuple(
        f"{name}-{number:05d}"
        for name, member in zip(SETS, images, strict=True)
        for number in range(member.shape[0])
    )
    return Dataset(
        name=place,
        classes=tuple(classes[label] for label in present),
        labels=np.searchsorted(present, labels),
        ids=ids,
        groups=ids,
        images=PackedImages.of_arrays(images),
        preprocessing=Preprocessing(image_size=size, crop=1.0, color_constancy="none"),
        augmentation=known.augmentation,
        contents=f"{len(ids)} images of {size} x {size} pixels of {path.name}{known.remark}",
    )


def _member(arrays: Mapping[str, Member], name: str, path: Path) -> Member:
    if name not in arrays:
        found = ", ".join(arrays) or "none"
        raise DataError(f"{path}: lacks the array {name}; its arrays are {found}")
    return arrays[name]


def _images(arrays: Mapping[str, Member], name: str, path: Path) -> Member:
    member = _member(arrays, name, path)
    _, *shape = member.shape or (0,)
    if member.dtype != np.uint8:
        raise DataError(f"{path}: {name} is {member.dtype}, not uint8; save it as bytes, 0 to 255")
    if len(shape) not in (2, 3) or shape[0] != shape[1] or shape[2:] not in ([], [3]):
        found = " x ".join(map(str, member.shape))
        raise DataError(f"{path}: {name} is {found}, not n x s x s or n x s x s x 3; correct it")
    return member


def _labels(arrays: Mapping[str, Member], name: str, path: Path) -> Int[np.ndarray, " n"]:
    member = _member(arrays, f"{name}_labels", path)
    count = _member(arrays, f"{name}_images", path).shape[0]
    if member.shape not in ((count,), (count, 1)):
        found = " x ".join(map(str, member.shape))
        cause = f"{member.name} is {found}, but there are {count} images in {name}_images"
        raise DataError(f"{path}: {cause}; give each image one label")
    if member.dtype.kind not in "iu":
        raise DataError(f"{path}: {member.name} is {member.dtype}; save labels as integers")
    with explain_damage(path, remedy=AGAIN), np.load(path, allow_pickle=False) as file:
        return np.asarray(file[member.name]).reshape(-1).astype(np.int64)


def _size(images: tuple[Member, ...], path: Path) -> int:
    sizes = {member.shape[1:] for member in images}
    if len(sizes) > 1:
        raise DataError(f"{path}: its sets have images of different sizes; give all one size")
    if not any(member.shape[0] for member in images):
        raise DataError(f"{path}: contains no images; fetch it again")
    size = sizes.pop()[0]
    if not 0 < size <= LARGEST_SIDE:
        raise DataError(f"{path}: images of {size} pixels; choose 1 to {LARGEST_SIDE}")
    return size


def _class_names(labels: Int[np.ndarray, " n"], known: Known, path: Path) -> tuple[str, ...]:
    lowest, highest = int(labels.min()), int(labels.max())
    last = len(known.classes) - 1 if known.classes else highest
    if lowest < 0 or highest > last:
        wrong = lowest if lowest < 0 else highest
        raise DataError(f"{path}: the label {wrong} is not in 0 to {max(last, 0)}; correct it")
    return known.classes or tuple(str(label) for label in range(highest + 1))
