"""Labelled image sets, not decoded yet, and the forms in which they are named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from misgiving.data.datasets.dataset import Dataset, ImageArray
from misgiving.data.datasets.folders import (
    ISIC_TRUTH,
    ham10000_table,
    read_folder,
    read_ham10000,
    read_isic2019,
    read_labelled_table,
)
from misgiving.data.datasets.medmnist import read_medmnist
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.errors import UsageError


def _read_digits(_: str) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, as dark ink on white paper (scikit-learn)."""
    from sklearn.datasets import load_digits  # slow to import; reading files does not need it

    bunch = load_digits()
    ink = np.rint(255 - bunch.images * (255 / 16)).astype(np.uint8)
    ids = tuple(f"digit-{number:04d}" for number in range(len(ink)))
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        labels=bunch.target.astype(np.int64),
        ids=ids,
        groups=ids,
        images=ImageArray(np.repeat(ink[..., None], 3, axis=3)),
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        augmentation=AugmentationSettings(flips=False, rotation=10.0),  # a turned 6 is a 9
        contents="1797 handwritten digits of 8 x 8 pixels from scikit-learn",
    )


FORMS: dict[str, tuple[str, Callable[[str], Dataset]]] = {
    "digits": ("digits", _read_digits),
    "folder": ("folder:FOLDER", read_folder),
    "table": ("table:FILE.csv", read_labelled_table),
    "isic2019": ("isic2019:FOLDER", read_isic2019),
    "ham10000": ("ham10000:FOLDER", read_ham10000),
    "medmnist": ("medmnist:FILE.npz", read_medmnist),
}
"""The form in which data of each kind are named, and their reader, given the text after the colon.
"""


def load_dataset(spec: str) -> Dataset:
    """The data set named `digits`, `folder:FOLDER`, `ham10000:FOLDER` and so on, as in `FORMS`.

    No image is opened.

    Raises:
        UsageError: The name has none of these forms.
        DataError: The named data cannot be used.

    >>> load_dataset("digits").classes[:3]
    ('0', '1', '2')
    """
    kind, _, place = spec.partition(":")
    form, read = FORMS.get(kind, ("", None))
    if read is None:
        raise UsageError(f"unknown data {spec!r}; {_hint(spec)}")
    if bool(place) != (":" in form):
        raise UsageError(f"data {spec!r} must be written {form}")
    return replace(read(place), name=spec)


def tables_of(spec: str) -> list[Path]:
    """The user's own table of `table:FILE.csv`; an `out` must not replace it."""
    kind, _, place = spec.partition(":")
    return [Path(place).expanduser()] if kind == "table" else []


def _hint(spec: str) -> str:
    path = Path(spec).expanduser()
    kinds = {
        "medmnist": path.is_file() and path.suffix.lower() == ".npz",
        "table": path.is_file(),
        "isic2019": (path / ISIC_TRUTH).is_file(),
        "ham10000": path.is_dir() and ham10000_table(path) is not None,
        "folder": path.is_dir(),
    }
    for kind in filter(kinds.get, kinds):
        return f"did you mean {kind}:{spec}?"
    return f"choose from {', '.join(form for form, _ in FORMS.values())}"
