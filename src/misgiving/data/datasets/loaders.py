"""The kinds of sets, and how each is called and read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.digits import read_digits
from misgiving.data.datasets.folders import read_folder
from misgiving.data.datasets.ham10000 import metadata_of, read_ham10000
from misgiving.data.datasets.isic2019 import TRUTH, read_isic2019
from misgiving.data.datasets.medmnist import read_medmnist
from misgiving.data.datasets.tabular import read_labelled_table
from misgiving.errors import UsageError
from misgiving.registry import Registry


class Loader(NamedTuple):
    """How a kind of set is written, and what reads it from what follows the colon."""

    form: str
    load: Callable[[str], Dataset]


DATASETS: Registry[Loader] = Registry(
    "data",
    digits=Loader("digits", read_digits),
    folder=Loader("folder:FOLDER", read_folder),
    table=Loader("table:FILE.csv", read_labelled_table),
    isic2019=Loader("isic2019:FOLDER", read_isic2019),
    ham10000=Loader("ham10000:FOLDER", read_ham10000),
    medmnist=Loader("medmnist:FILE.npz", read_medmnist),
)


def load_dataset(spec: str) -> Dataset:
    """Read what a person calls `digits`, `folder:FOLDER`, `ham10000:FOLDER` and so on.

    The forms are those of `DATASETS`. No image is opened.

    Raises:
        UsageError: The name has no such form.
        DataError: What it names cannot be used.

    >>> load_dataset("digits").classes[:3]
    ('0', '1', '2')
    """
    kind, _, place = spec.partition(":")
    if kind not in DATASETS:
        raise UsageError(f"unknown data {spec!r}; {_hint(spec)}")
    form, load = DATASETS[kind]
    if bool(place) != (":" in form):
        raise UsageError(f"data {spec!r} must be written {form}")
    return replace(load(place), name=spec)


def _hint(spec: str) -> str:
    path = Path(spec).expanduser()
    found = {
        "medmnist": path.is_file() and path.suffix.lower() == ".npz",
        "table": path.is_file(),
        "isic2019": (path / TRUTH).is_file(),
        "ham10000": path.is_dir() and metadata_of(path) is not None,
        "folder": path.is_dir(),
    }
    for kind in filter(found.get, found):
        return f"did you mean {kind}:{spec}?"
    return f"choose from {', '.join(loader.form for loader in DATASETS.values())}"
