"""Images in arrays of an `.npz` file, which may be larger than memory.

An array that is stored uncompressed is memory-mapped. A compressed one, as MedMNIST's are, is
inflated block by block. The state of the decompressor is kept at the start of each block that was
reached, so that any block can be read again without those before it. That needs no disk space, and
in memory about 45 kB for each of at most 1,000 blocks, beside the last few blocks themselves.
"""

import math
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.data.datasets.dataset import HashedImage, Indices, file_key
from misgiving.data.decoding import refuse_file
from misgiving.errors import DataError, explain_damage
from misgiving.manifests import sha256_of

Rows = UInt8[np.ndarray, "..."]

BLOCK = 2**21  # bytes per block of a small array
BLOCKS = 1000  # at most, per array
KEPT = 4  # blocks in memory; threads that read ahead need more than one
AGAIN = "fetch the .npz file again"
CHUNK = 2**14  # compressed bytes that are read at a time
LOCAL_HEADER = 30  # bytes before the name in a zip file


class Member(NamedTuple):
    """An array in an `.npz` file, and the location of its values.

    Attributes:
        path: The file.
        name: Of the array, as its shape and dtype.
        header: Bytes before the values, after decompression.
        start: Position in the file.
        stored: Size in the file.
        size: Size after decompression.
        deflated: True if compressed.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header: int
    start: int
    stored: int
    size: int
    deflated: bool


def members(path: Path) -> dict[str, Member]:
    """The arrays of an `.npz` file by name; only headers are read."""
    if not path.is_file():  # reading a pipe would block for ever
        raise DataError(f"{path}: no such file, or not an ordinary file; check the path")
    with explain_damage(path, remedy=AGAIN), zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
        return {entry.filename[:-4]: _member(path, archive, entry) for entry in entries}


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    name = entry.filename[:-4]
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        header = file.tell()
    if dtype.hasobject:
        raise DataError(f"{path}: {name} contains Python objects; save it as numbers")
    if fortran and len(shape) > 1:
        raise DataError(f"{path}: {name} is stored column by column; save it in C order")
    if header + dtype.itemsize * math.prod(shape) != entry.file_size:
        raise DataError(f"{path}: {name} is not as long as its header says; {AGAIN}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: not compressed by numpy; save it with numpy.savez")
    with path.open("rb") as file:
        file.seek(entry.header_offset + LOCAL_HEADER - 4)
        lengths = file.read(4)  # of the name and the extra field, which precede the data
    before = LOCAL_HEADER + sum(int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    return Member(
        path=path,
        name=name,
        shape=shape,
        dtype=dtype,
        header=header,
        start=entry.header_offset + before,
        stored=entry.compress_size,
        size=entry.file_size,
        deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
    )


class InflatedRows:
    """Rows of a compressed array, in any order and from any thread."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._row = math.prod(member.shape[1:])
        total = member.size - member.header
        self._per_block = max(1, max(BLOCK, total // BLOCKS) // max(1, self._row))
        self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
        self._fed = 0
        self._states: list[tuple[Any, int]] = []
        self._blocks: OrderedDict[int, Rows] = OrderedDict()
        self._lock = Lock()

    def __call__(self, index: int) -> Rows:
        number, row = divmod(index, self._per_block)
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = self._block(number)
                if len(self._blocks) > KEPT:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return np.asarray(self._blocks[number][row])

    def _block(self, wanted: int) -> Rows:
        """Inflate a block, and those before it that were never reached."""
        if not self._states:
            self._inflate(self._member.header)
            self._states.append((self._decoder.copy(), self._fed))
        number = min(wanted, len(self._states) - 1)
        state, self._fed = self._states[number]
        self._decoder = state.copy()
        while True:
            rows = min(self._per_block, self._member.shape[0] - number * self._per_block)
            data = self._inflate(rows * self._row)
            number += 1
            if number == len(self._states):
                self._states.append((self._decoder.copy(), self._fed))
            if number > wanted:
                return np.frombuffer(data, np.uint8).reshape(rows, *self._member.shape[1:])

    def _inflate(self, count: int) -> bytearray:
        """The next bytes of the array."""
        data = bytearray()
        try:
            with self._member.path.open("rb", buffering=0) as file:
                while len(data) < count:
                    file.seek(self._member.start + self._fed)
                    fed = file.read(min(CHUNK, self._member.stored - self._fed))
                    inflated = self._decoder.decompress(fed, count - len(data))
                    if not (fed or inflated):
                        raise zlib.error("it ends early")
                    data += inflated
                    self._fed += len(fed) - len(self._decoder.unconsumed_tail)
        except OSError as failure:
            refuse_file(self._member.path, failure)
        except zlib.error as failure:
            where = f"{self._member.path}: {self._member.name}"
            raise DataError(f"{where} is damaged ({failure}); {AGAIN}") from failure
        return data


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images in arrays of an `.npz` file, one array after another.

    The key is that of the file, with the array and row in it.
    """

    arrays: tuple[Member, ...]
    positions: Int[np.ndarray, " n"]
    readers: tuple[Callable[[int], Rows], ...] = field(repr=False)

    @classmethod
    def of_arrays(cls, arrays: tuple[Member, ...]) -> "PackedImages":
        """All images of these arrays."""

        def reader(array: Member) -> Callable[[int], Rows]:
            if array.deflated:
                return InflatedRows(array)
            start = array.start + array.header
            return np.memmap(array.path, np.uint8, "r", start, array.shape).__getitem__

        total = sum(array.shape[0] for array in arrays)
        return cls(arrays, np.arange(total), tuple(map(reader, arrays)))

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: int) -> HashedImage:
        number, row = self._place(index)
        image = np.array(self.readers[number](row))
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return HashedImage(sha256_of(image.tobytes()), image)

    def key(self, index: int) -> str:
        number, row = self._place(index)
        return f"{file_key(self.arrays[number].path)}|{self.arrays[number].name}|{row}"

    def select(self, indices: Indices) -> "PackedImages":
        return PackedImages(self.arrays, self.positions[indices], self.readers)

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the array, and the row of it."""
        ends = np.cumsum([array.shape[0] for array in self.arrays])
        number = int(np.searchsorted(ends, self.positions[index], side="right"))
        return number, int(self.positions[index] - ends[number] + self.arrays[number].shape[0])
