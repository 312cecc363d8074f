"""Where the pixels of a set come from: files, memory or a packed array on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.data.decoding import decode, read_bytes, refuse_file
from misgiving.data.preprocessing import Preprocessing
from misgiving.manifests import sha256_of

Indices = Int[np.ndarray, " selected"]


class HashedImage(NamedTuple):
    """A decoded image and the SHA-256 of what it was decoded from, in hexadecimal."""

    hash: str
    image: UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class ImageSource(Protocol):
    """Images that are read one at a time, from any thread."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> HashedImage:
        """Decode one image and hash its content."""

    def key(self, index: int) -> str:
        """Identity that is cheap to get and changes when the content does."""

    def select(self, indices: Indices) -> "ImageSource":
        """Source of these images alone, in this order."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files; the key is absolute path, size and time of change."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> HashedImage:
        path = self.paths[index]
        data = read_bytes(path)
        return HashedImage(sha256_of(data), decode(data, str(path)))

    def preprocessed(self, index: int, preprocessing: Preprocessing) -> HashedImage:
        """Decode no more of a file than its square takes, and hash all of it."""
        path = self.paths[index]
        data = read_bytes(path)
        square = preprocessing.from_file(data, str(path))
        return HashedImage(sha256_of(data), square)

    def key(self, index: int) -> str:
        path = self.paths[index].absolute()
        try:
            status = path.stat()
        except OSError as failure:
            refuse_file(path, failure)
        return f"{path}|{status.st_size}|{status.st_mtime_ns}"

    def select(self, indices: Indices) -> "ImageFiles":
        return ImageFiles(tuple(self.paths[index] for index in indices))


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Images in memory; the key is the hash of the pixels."""

    images: UInt8[np.ndarray, "n height width 3"]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> HashedImage:
        return HashedImage(self.key(index), self.images[index])

    def key(self, index: int) -> str:
        return sha256_of(self.images[index].tobytes())

    def select(self, indices: Indices) -> "ImageArray":
        return ImageArray(self.images[indices])


def preprocessed(images: ImageSource, index: int, preprocessing: Preprocessing) -> HashedImage:
    """One image as the model sees it, with the hash of its content."""
    if isinstance(images, ImageFiles):
        return images.preprocessed(index, preprocessing)
    name, image = images.read(index)
    return HashedImage(name, preprocessing(image))
