"""`medmnist:`: one of the `.npz` files of MedMNIST (Yang et al., 2023)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer

from misgiving.data.datasets.dataset import DERMOSCOPY_AUGMENTATION, Dataset
from misgiving.data.datasets.packed import Member, members, packed_images
from misgiving.data.preprocessing import LARGEST_SIDE, AugmentationSettings, Preprocessing
from misgiving.errors import DataError

PARTS = ("train", "val", "test")


class Known(NamedTuple):
    """What is known of files whose name starts in a certain way."""

    classes: tuple[str, ...]
    augmentation: AugmentationSettings
    remark: str


KNOWN = {
    "dermamnist": Known(
        ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"),
        DERMOSCOPY_AUGMENTATION,
        "; the file names no lesion, and images of one lesion are in several of its parts",
    ),
    "pathmnist": Known(
        ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
        AugmentationSettings.none(),
        "; the file names no patient",
    ),
}
UNKNOWN = Known((), AugmentationSettings.none(), "")


def read_medmnist(place: str) -> Dataset:
    """All three parts of a MedMNIST file; the classes that have images, in the file's order.

    The images stay in the file. Each is a group of its own: the file names no lesion or patient.
    """
    path = Path(place).expanduser()
    arrays = members(path)
    known = _known(path)
    images = tuple(_images(arrays, f"{part}_images", path) for part in PARTS)
    labels = np.concatenate([_labels(arrays, part, path) for part in PARTS])
    size = _size(images, path)
    present = np.unique(labels)
    names = _class_names(labels, known, path)
    ids = _ids(images)
    return Dataset(
        name=place,
        classes=tuple(names[label] for label in present),
        labels=np.searchsorted(present, labels),
        ids=ids,
        groups=ids,
        images=packed_images(images),
        preprocessing=Preprocessing(image_size=size, crop=1.0, color_constancy="none"),
        augmentation=known.augmentation,
        contents=f"{len(ids)} images of {size} x {size} pixels of {path.name}{known.remark}",
    )


def _known(path: Path) -> Known:
    return next((fact for start, fact in KNOWN.items() if path.name.startswith(start)), UNKNOWN)


def _ids(images: Sequence[Member]) -> tuple[str, ...]:
    return tuple(
        f"{part}-{number:05d}"
        for part, member in zip(PARTS, images, strict=True)
        for number in range(member.shape[0])
    )


def _images(arrays: Mapping[str, Member], name: str, path: Path) -> Member:
    member = _member(arrays, name, path)
    _, *shape = member.shape or (0,)
    if member.dtype != np.uint8:
        raise DataError(f"{path}: {name} is {member.dtype}, not uint8; save it as bytes, 0 to 255")
    if len(shape) not in (2, 3) or shape[0] != shape[1] or shape[2:] not in ([], [3]):
        found = " x ".join(map(str, member.shape))
        raise DataError(f"{path}: {name} is {found}, not n x s x s or n x s x s x 3; correct it")
    return member


def _member(arrays: Mapping[str, Member], name: str, path: Path) -> Member:
    if name not in arrays:
        there = ", ".join(arrays) or "none"
        raise DataError(f"{path}: lacks the array {name}; its arrays are {there}")
    return arrays[name]


def _labels(arrays: Mapping[str, Member], part: str, path: Path) -> Int[np.ndarray, " n"]:
    member = _member(arrays, f"{part}_labels", path)
    count = _member(arrays, f"{part}_images", path).shape[0]
    if member.shape not in ((count,), (count, 1)):
        found = " x ".join(map(str, member.shape))
        cause = f"{member.name} is {found}, but there are {count} images in {part}_images"
        raise DataError(f"{path}: {cause}; give each image one label")
    if member.dtype.kind not in "iu":
        raise DataError(f"{path}: {member.name} is {member.dtype}; save labels as whole numbers")
    return _loaded(member).reshape(-1).astype(np.int64)


def _loaded(member: Member) -> Integer[np.ndarray, "..."]:
    try:
        with np.load(member.path, allow_pickle=False) as file:
            return np.asarray(file[member.name])
    except Exception as failure:  # on damaged files, numpy's reader raises almost anything
        reason = " ".join(str(failure).split()) or type(failure).__name__
        cause = f"{member.name} cannot be read ({reason})"
        raise DataError(f"{member.path}: {cause}; fetch the file again") from failure


def _size(images: tuple[Member, ...], path: Path) -> int:
    sizes = {member.shape[1:] for member in images}
    if len(sizes) > 1:
        raise DataError(f"{path}: the parts hold images of several sizes; make them alike")
    if not any(member.shape[0] for member in images):
        raise DataError(f"{path}: holds no image; fetch it again")
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
