"""`medmnist:` data: an `.npz` file of MedMNIST (Yang et al., 2023)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from misgiving.data.datasets.dataset import DERMOSCOPY_AUGMENTATION, Dataset
from misgiving.data.datasets.npz import REMEDY, PackedArray, PackedImages, packed_arrays
from misgiving.data.preprocessing import LARGEST_SIDE, AugmentationSettings, Preprocessing
from misgiving.errors import DataError, explain_damage

SETS = ("train", "val", "test")

FILES = {
    "dermamnist": (
        ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"),
        DERMOSCOPY_AUGMENTATION,
        "; the file does not identify lesions, and its sets share some",
    ),
    "pathmnist": (
        ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
        AugmentationSettings.none(),
        "; the file does not identify patients",
    ),
}
"""Classes, augmentation and a remark for files whose names start so."""

OTHER: tuple[tuple[str, ...], AugmentationSettings, str] = ((), AugmentationSettings.none(), "")


def read_medmnist(place: str) -> Dataset:
    """All three sets of a MedMNIST file; classes without images are left out.

    The images stay in the file. Each is its own group, as lesions and patients are not identified.
    """
    path = Path(place).expanduser()
    arrays = packed_arrays(path)
    facts = (facts for start, facts in FILES.items() if path.name.startswith(start))
    names, augmentation, remark = next(facts, OTHER)
    images = [_array(arrays, f"{name}_images", path) for name in SETS]
    size = _side(images, path)
    labels = np.concatenate([_labels(arrays, name, path) for name in SETS])
    names = _class_names(labels, names, path)
    present = np.unique(labels)
    ids = tuple(
        f"{name}-{number:05d}"
        for name, array in zip(SETS, images, strict=True)
        for number in range(array.shape[0])
    )
    return Dataset(
        name=place,
        classes=tuple(names[label] for label in present),
        labels=np.searchsorted(present, labels),
        ids=ids,
        groups=ids,
        images=PackedImages(tuple(images), np.arange(len(ids))),
        preprocessing=Preprocessing(image_size=size, crop=1.0, color_constancy="none"),
        augmentation=augmentation,
        contents=f"{len(ids)} images of {size} x {size} pixels of {path.name}{remark}",
    )


def _array(arrays: Mapping[str, PackedArray], name: str, path: Path) -> PackedArray:
    if name not in arrays:
        present = ", ".join(arrays) or "none"
        raise DataError(f"{path}: lacks the array {name}; its arrays are {present}")
    return arrays[name]


def _side(images: Sequence[PackedArray], path: Path) -> int:
    """Side of the images in pixels, which all sets share."""
    sides = {array.shape[1] if len(array.shape) > 2 else 0 for array in images}
    side = min(sides)
    are_squares = all(
        array.dtype == np.uint8 and array.shape[1:] in ((side, side), (side, side, 3))
        for array in images
    )
    if not (are_squares and 0 < side <= LARGEST_SIDE):
        shapes = ", ".join(f"{array.name} {array.dtype} {array.shape}" for array in images)
        raise DataError(
            f"{path}: images must be uint8 in (n, s, s) or (n, s, s, 3), with one s of at most "
            f"{LARGEST_SIDE}; found {shapes}"
        )
    if not any(array.shape[0] for array in images):
        raise DataError(f"{path}: contains no images; {REMEDY}")
    return side


def _labels(arrays: Mapping[str, PackedArray], name: str, path: Path) -> Int[np.ndarray, " n"]:
    labels, count = _array(arrays, f"{name}_labels", path), arrays[f"{name}_images"].shape[0]
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: {labels.name} must be {count} integers, one for each image; found "
            f"{labels.dtype} {labels.shape}"
        )
    with explain_damage(path, remedy=REMEDY), np.load(path, allow_pickle=False) as file:
        return np.asarray(file[labels.name]).reshape(-1).astype(np.int64)


def _class_names(
    labels: Int[np.ndarray, " n"], names: tuple[str, ...], path: Path
) -> tuple[str, ...]:
    lowest, highest = int(labels.min()), int(labels.max())
    names = names or tuple(str(label) for label in range(highest + 1))
    if lowest < 0 or highest >= len(names):
        raise DataError(f"{path}: a label of {lowest} to {highest} is not one of {len(names)}")
    return names
