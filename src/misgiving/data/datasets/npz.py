"""Images in arrays of an `.npz` file, which may be larger than memory.

A compressed array can only be read from its start. So blocks are read one after another, and the
last few are kept: fast in ascending order, as when the cache of prepared images is filled. An
earlier row is reached by reading the array again from its start.
"""

import math
import zipfile
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any
from weakref import finalize

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.data.datasets.dataset import HashedImage, Indices, file_key
from misgiving.errors import DataError, explain_damage
from misgiving.manifests import sha256_of

BLOCK = 2**22  # bytes per block
KEPT = 4  # blocks in memory; threads that read ahead need more than one
REMEDY = "fetch the .npz file again"


class PackedArray:
    """An array in an `.npz` file, whose rows can be read from any thread.

    Attributes:
        path: The file.
        name: Of the array in it.
        shape: Of the array.
        dtype: Of its values.
    """

    def __init__(self, path: Path, name: str, file: Any) -> None:
        self.path, self.name = path, name
        if np.lib.format.read_magic(file) == (1, 0):
            self.shape, fortran, self.dtype = np.lib.format.read_array_header_1_0(file)
        else:
            self.shape, fortran, self.dtype = np.lib.format.read_array_header_2_0(file)
        if self.dtype.hasobject or (fortran and len(self.shape) > 1):
            raise DataError(f"{path}: {name} must be numbers, saved in C order")
        self._start, self._row = file.tell(), math.prod(self.shape[1:])
        self._per_block = max(1, BLOCK // max(1, self._row))
        self._blocks: OrderedDict[int, UInt8[np.ndarray, ...]] = OrderedDict()
        self._file: IO[bytes] | None = None
        self._lock = Lock()

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "..."]:
        """One row of an array of bytes."""
        number, row = divmod(index, self._per_block)
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = self._read(number)
                if len(self._blocks) > KEPT:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return np.asarray(self._blocks[number][row])

    def _read(self, number: int) -> UInt8[np.ndarray, "..."]:
        first = number * self._per_block
        count = min(self._per_block, self.shape[0] - first)
        with explain_damage(self.path, remedy=REMEDY):
            if self._file is None:
                stack = ExitStack()
                finalize(self, stack.close)
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                self._file = stack.enter_context(archive.open(f"{self.name}.npy"))
            self._file.seek(self._start + first * self._row)
            data = self._file.read(count * self._row)
            return np.frombuffer(data, np.uint8).reshape(count, *self.shape[1:])


def packed_arrays(path: Path) -> dict[str, PackedArray]:
    """The arrays of an `.npz` file by name; only headers are read."""
    if not path.is_file():  # reading a pipe would block for ever
        raise DataError(f"{path}: no such file, or not an ordinary file; check the path")
    arrays = {}
    with explain_damage(path, remedy=REMEDY), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                name = name.removesuffix(".npy")
                arrays[name] = PackedArray(path, name, file)
    return arrays


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images in arrays of an `.npz` file, one array after another.

    The key is that of the file, with the array and row in it.
    """

    arrays: tuple[PackedArray, ...]
    positions: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: int) -> HashedImage:
        array, row = self._place(index)
        image = np.array(array[row])
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return HashedImage(sha256_of(image.tobytes()), image)

    def key(self, index: int) -> str:
        array, row = self._place(index)
        return f"{file_key(array.path)}|{array.name}|{row}"

    def select(self, indices: Indices) -> "PackedImages":
        return PackedImages(self.arrays, self.positions[indices])

    def _place(self, index: int) -> tuple[PackedArray, int]:
        """The array, and the row of it."""
        ends = np.cumsum([array.shape[0] for array in self.arrays])
        number = int(np.searchsorted(ends, self.positions[index], side="right"))
        array = self.arrays[number]
        return array, int(self.positions[index] - ends[number] + array.shape[0])
