"""`medmnist:` data: an `.npz` file of MedMNIST (Yang et al., 2023), which may exceed the memory.

A compressed array can only be read from its start. So blocks are read one after another, and the
last few are kept: fast in ascending order, as when the cache of prepared images is filled. An
earlier row is reached by reading the array again from its start.
"""

import math
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from weakref import finalize

import numpy as np
from jaxtyping import UInt8

from misgiving.arrays import Picture
from misgiving.data.datasets.dataset import SET_NAMES, Dataset, SourceImage, file_key
from misgiving.data.preprocessing import LARGEST_SIDE, Preprocessing
from misgiving.errors import DataError, explain_damage

ARRAY_SETS = ("train", "val", "test")
BLOCK_BYTES = 2**22  # bytes per block
BLOCKS_IN_MEMORY = 4  # threads that read ahead need more than one
FETCH_AGAIN = "fetch the .npz file again"

ARCHIVES = {
    "dermamnist": (
        ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"),
        "dermoscopy",
        "; the file does not identify lesions, and its sets share some",
    ),
    "pathmnist": (
        ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM"),
        "none",
        "; the file does not identify patients",
    ),
}
"""Classes, augmentation and a remark for files whose names start so."""


class PackedArray:
    """Square images of one side in an array of an `.npz` file, read in blocks from any thread.

    Args:
        path: The file.
        name: Of the array in it.
        archive: The opened file, which may be closed afterwards.
    """

    def __init__(self, path: Path, name: str, archive: zipfile.ZipFile) -> None:
        self.path, self.name = path, name
        self._file = archive.open(f"{name}.npy")
        finalize(self, self._file.close)
        np.lib.format.read_magic(self._file)
        self.shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(self._file)
        self._start = self._file.tell()
        side = self.shape[1] if len(self.shape) > 2 else 0
        are_squares = self.shape[1:] in ((side, side), (side, side, 3))
        if is_fortran or dtype != np.uint8 or not are_squares:
            shape = f"{dtype} {self.shape}"
            raise ValueError(f"{name} must be uint8 (n, s, s) or (n, s, s, 3), got {shape}")
        self._row = math.prod(self.shape[1:])
        self._per_block = max(1, BLOCK_BYTES // max(1, self._row))
        self._block = lru_cache(BLOCKS_IN_MEMORY)(self._read)
        self._lock = Lock()

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "..."]:
        number, row = divmod(index, self._per_block)
        with self._lock:
            return np.asarray(self._block(number)[row])

    def _read(self, number: int) -> UInt8[np.ndarray, "..."]:
        first = number * self._per_block
        count = min(self._per_block, self.shape[0] - first)
        with explain_damage(self.path, remedy=FETCH_AGAIN):
            self._file.seek(self._start + first * self._row)
            data = self._file.read(count * self._row)
            return np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])


@dataclass(frozen=True, eq=False)
class PackedImage(SourceImage):
    """A row of an array of an `.npz` file; the key is that of the file, with array and row."""

    array: PackedArray
    row: int

    def content(self) -> tuple[Picture, str]:
        image = np.array(self.array[self.row])
        return image if image.ndim > 2 else np.repeat(image[..., None], 3, axis=2), ""

    def key(self) -> str:
        return f"{file_key(self.array.path)}|{self.array.name}|{self.row}"


def read_medmnist(place: str) -> Dataset:
    """The images of a MedMNIST file, in its three sets; classes without images are left out.

    The images stay in the file. Each is its own group, as lesions and patients are not identified.
    """
    path = Path(place).expanduser()
    facts = (facts for start, facts in ARCHIVES.items() if path.name.startswith(start))
    names, augmentation, remark = next(facts, ((), "none", ""))
    with explain_damage(path, remedy=FETCH_AGAIN), zipfile.ZipFile(path) as archive:
        arrays = tuple(PackedArray(path, f"{name}_images", archive) for name in ARRAY_SETS)
    with explain_damage(path, remedy=FETCH_AGAIN), np.load(path, allow_pickle=False) as content:
        parts = [content[f"{name}_labels"].reshape(-1) for name in ARRAY_SETS]
    labels, size = np.concatenate(parts), arrays[0].shape[1]
    names = names or tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
    sizes = {array.shape[1:] for array in arrays}
    counts = [array.shape[0] for array in arrays]
    is_usable = (
        len(sizes) == 1
        and 0 < size <= LARGEST_SIDE
        and [*map(len, parts)] == counts
        and labels.size
        and np.issubdtype(labels.dtype, np.integer)
        and 0 <= labels.min() <= labels.max() < len(names)
    )
    if not is_usable:
        raise DataError(
            f"{path}: must have squares of one size up to {LARGEST_SIDE} pixels, and for each a "
            f"label from 0 to {len(names) - 1}; {FETCH_AGAIN}"
        )
    rows = [(n, row) for n, array in enumerate(arrays) for row in range(array.shape[0])]
    present = np.unique(labels)
    ids = tuple(f"{ARRAY_SETS[number]}-{row:05d}" for number, row in rows)
    return Dataset(
        name=place,
        classes=tuple(names[label] for label in present),
        labels=np.searchsorted(present, labels.astype(np.int64)),
        ids=ids,
        groups=("",) * len(ids),
        images=tuple(PackedImage(arrays[number], row) for number, row in rows),
        sets=tuple(SET_NAMES[ARRAY_SETS[number]] for number, _ in rows),
        preprocessing=Preprocessing(image_size=size, crop=1.0, color_constancy="none"),
        augmentation=augmentation,
        contents=f"{len(ids)} images of {size} x {size} pixels of {path.name}{remark}",
    )
