"""Images in a member of a `.npz` file, which may be larger than memory.

A member that is stored plainly is memory-mapped. A compressed one, as MedMNIST's are, is inflated
block by block. The state of the decompressor is kept at the start of every block that was reached,
so a block can be had again, in any order, without what lies before it. That needs no space on disk,
and in memory about 45 kB for each of at most 1,000 blocks beside the last few blocks themselves.
"""

import math
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.data.datasets.images import HashedImage, Indices
from misgiving.data.decoding import refuse_file
from misgiving.errors import DataError
from misgiving.manifests import sha256_of

Rows = UInt8[np.ndarray, "..."]

BLOCK = 2**21  # bytes of a block where a member is small
BLOCKS = 1000  # at most so many in a member
KEPT = 4  # blocks; threads that read ahead need more than one
CHUNK = 2**14  # compressed bytes that are read at a time
LOCAL_HEADER = 30  # bytes before the name in a zip file


class Member(NamedTuple):
    """An array in a `.npz` file: what it holds and where its values begin.

    Attributes:
        path: The file.
        name: Of the array.
        shape: Of the array.
        dtype: Of the array.
        header: Bytes before the values, once inflated.
        start: Where in the file the member begins.
        stored: Its size in the file.
        size: Its size once inflated.
        deflated: Whether it is compressed.
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
    """The arrays of a `.npz` file by name, of which only the headers are read."""
    if path.exists() and not path.is_file():  # a pipe would wait for ever
        raise DataError(f"{path}: not an ordinary file; name a .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            return {entry.filename[:-4]: _member(path, archive, entry) for entry in entries}
    except OSError as failure:
        refuse_file(path, failure)
    except DataError:
        raise
    except Exception as failure:  # on damaged files, the readers raise almost anything
        reason = " ".join(str(failure).split()) or type(failure).__name__
        raise DataError(f"{path}: not a whole .npz file ({reason}); fetch it again") from failure


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _read_header_2_0
        shape, fortran, dtype = read(file)
        header = file.tell()
    member = Member(
        path=path,
        name=entry.filename[:-4],
        shape=shape,
        dtype=dtype,
        header=header,
        start=_start(path, entry),
        stored=entry.compress_size,
        size=entry.file_size,
        deflated=entry.compress_type == zipfile.ZIP_DEFLATED,
    )
    _refuse_unusable(member, fortran and len(shape) > 1)
    return member


def _refuse_unusable(member: Member, column_by_column: bool) -> None:
    where = f"{member.path}: {member.name}"
    if member.dtype.hasobject:
        raise DataError(f"{where} holds Python objects; save it as numbers")
    if column_by_column:
        raise DataError(f"{where} is stored column by column; save it in C order")
    if member.header + member.dtype.itemsize * math.prod(member.shape) != member.size:
        raise DataError(f"{where} is not as long as it says; fetch the file again")


def _read_header_2_0(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    return np.lib.format.read_array_header_2_0(file)


def _start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin, after its header, whose length only the header tells."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: compressed otherwise than by numpy; save it with numpy.savez")
    with path.open("rb") as file:
        file.seek(entry.header_offset + LOCAL_HEADER - 4)
        lengths = file.read(4)
    name, extra = (int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
    return entry.header_offset + LOCAL_HEADER + name + extra


def rows_of(member: Member) -> Callable[[int], Rows]:
    """What reads one row of an array of bytes, from any thread."""
    if member.deflated:
        return InflatedRows(member)
    mapped = np.memmap(member.path, np.uint8, "r", member.start + member.header, member.shape)
    return mapped.__getitem__


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
        """Inflate a block, and those on the way to it that were never reached."""
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
            _refuse_damaged(self._member, failure)
        return data


def _refuse_damaged(member: Member, failure: Exception) -> NoReturn:
    raise DataError(
        f"{member.path}: {member.name} is damaged ({failure}); fetch the file again"
    ) from failure


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images in arrays of a `.npz` file, one array after another.

    The key is the file's absolute path, size and time of change, and the place in the file.
    """

    parts: tuple[Member, ...]
    positions: Int[np.ndarray, " n"]
    readers: tuple[Callable[[int], Rows], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: int) -> HashedImage:
        part, row = self._place(index)
        image = np.array(self.readers[part](row))
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return HashedImage(sha256_of(image.tobytes()), image)

    def key(self, index: int) -> str:
        part, row = self._place(index)
        member = self.parts[part]
        try:
            status = member.path.stat()
        except OSError as failure:
            refuse_file(member.path, failure)
        place = f"{member.path.absolute()}|{status.st_size}|{status.st_mtime_ns}"
        return f"{place}|{member.name}|{row}"

    def select(self, indices: Indices) -> "PackedImages":
        return PackedImages(self.parts, self.positions[indices], self.readers)

    def _place(self, index: int) -> tuple[int, int]:
        """Which array, and which row of it."""
        row = int(self.positions[index])
        for part, member in enumerate(self.parts):
            if row < member.shape[0]:
                return part, row
            row -= member.shape[0]
        raise IndexError(index)


def packed_images(parts: tuple[Member, ...]) -> PackedImages:
    """All images of these arrays."""
    total = sum(member.shape[0] for member in parts)
    return PackedImages(parts, np.arange(total), tuple(rows_of(member) for member in parts))
