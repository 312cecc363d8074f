"""Decode and preprocess a set once, then read batches of it.

The prepared pixels lie in a memory-mapped file, so a set may be larger than memory.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from misgiving.data.datasets import Dataset, HashedImage, preprocessed
from misgiving.data.decoding import in_order
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.files import whole_folder, write_json
from misgiving.registry import Registry

Report = Callable[[int, int], None]
"""Called with how many images are done, and of how many."""

FORMAT = 2  # of the cache; raise it whenever the same settings give other pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet:
    """A prepared image set, or some rows of one.

    Attributes:
        images: All stored pixels, memory-mapped; `rows` says which of them belong to this set.
        rows: For every image of this set, its row in `images`.
        labels: Positions in `classes`.
        ids: Unique.
        groups: Images of one group show the same thing.
        hashes: SHA-256 of what each image was decoded from, in hexadecimal.
        classes: Class names.
    """

    images: UInt8[np.ndarray, "stored size size 3"]
    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    hashes: tuple[str, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Int[np.ndarray, " m"]) -> "ImageSet":
        """Set of these images alone, in this order; the pixels are shared, not copied."""
        return replace(
            self,
            rows=self.rows[indices],
            labels=self.labels[indices],
            ids=tuple(self.ids[index] for index in indices),
            groups=tuple(self.groups[index] for index in indices),
            hashes=tuple(self.hashes[index] for index in indices),
        )

    def read(self, indices: Int[np.ndarray, " m"]) -> UInt8[np.ndarray, "m size size 3"]:
        """Pixels of these images in memory, in this order."""
        rows = self.rows[indices]
        ascending = np.argsort(rows, kind="stable")  # the disk is read in one direction
        pixels = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
        pixels[ascending] = self.images[rows[ascending]]
        return pixels

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes and labels in their order: equal for equal content."""
        lines = (f"{name}:{label}\n" for name, label in zip(self.hashes, self.labels, strict=True))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def default_cache() -> Path:
    """Folder for prepared sets: `misgiving` in XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "misgiving"


def prepare(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    report: Report | None = None,
) -> ImageSet:
    """Decode and preprocess every image, or find that this was done before.

    The work is kept in a folder of `cache` that is named by everything that the pixels depend on:
    a changed file or setting gives another folder. Of several processes that prepare one set, the
    first does the work and the others wait for it. Prepare a whole set and `select` from it:
    a selection prepared on its own is stored again.

    Raises:
        DataError: An image cannot be decoded.
        OSError: The cache cannot be written; nothing of this set is left in it.
    """
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: there is no image to prepare; choose a set that has some")
    folder = cache / _cache_name(dataset, preprocessing)
    shape = (len(dataset), preprocessing.image_size, preprocessing.image_size, 3)
    stored = _stored(folder, shape) or _prepare_alone(
        folder, shape, lambda: _preprocessed(dataset, preprocessing), report
    )
    return ImageSet(
        images=stored.images,
        rows=np.arange(len(dataset)),
        labels=dataset.labels,
        ids=dataset.ids,
        groups=dataset.groups,
        hashes=stored.hashes,
        classes=dataset.classes,
    )


class _Stored(NamedTuple):
    images: UInt8[np.ndarray, "n size size 3"]
    hashes: tuple[str, ...]


def _cache_name(dataset: Dataset, preprocessing: Preprocessing) -> str:
    """SHA-256 of what the stored pixels depend on; labels are not among it."""
    content = {
        "format": FORMAT,
        "preprocessing": preprocessing.to_dict(),
        "ids": dataset.ids,
        "keys": [dataset.images.key(index) for index in range(len(dataset))],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _stored(folder: Path, shape: tuple[int, ...]) -> _Stored | None:
    """What the cache holds; None if it holds nothing or what it holds is damaged."""
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        hashes = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))["hashes"]
    except Exception:  # on damaged files, numpy's reader raises almost anything
        return None
    whole = isinstance(images, np.memmap) and images.shape == shape and images.dtype == np.uint8
    if not (whole and isinstance(hashes, list) and len(hashes) == len(images)):
        return None
    return _Stored(images, tuple(str(name) for name in hashes))


def _prepare_alone(
    folder: Path,
    shape: tuple[int, ...],
    start: Callable[[], Generator[HashedImage]],
    report: Report | None,
) -> _Stored:
    with _alone(folder.with_suffix(".lock")):
        if stored := _stored(folder, shape):
            return stored
        with closing(start()) as images, whole_folder(folder) as unfinished:
            _write(unfinished, shape, images, report)
        if stored := _stored(folder, shape):
            return stored
    raise OSError(f"{folder}: what was written cannot be read back; check the disk")


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that no other process or thread holds; the lock dies with its process."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = lock.open("ab")
    fcntl.flock(handle, fcntl.LOCK_EX)
    while not _is_same_file(handle, lock):  # the one we waited for has removed it
        handle.close()
        handle = lock.open("ab")
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        handle.close()


def _is_same_file(handle: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _preprocessed(dataset: Dataset, preprocessing: Preprocessing) -> Generator[HashedImage]:
    """Every image in order."""
    return in_order(lambda index: preprocessed(dataset.images, index, preprocessing), len(dataset))


def _write(
    folder: Path, shape: tuple[int, ...], images: Iterable[HashedImage], report: Report | None
) -> None:
    """Write with ordinary writes: through a memory map, a full disk would kill the process."""
    hashes: list[str] = []
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for name, image in images:
            file.write(image.tobytes())
            hashes.append(name)
            if report:
                report(len(hashes), shape[0])
        file.flush()
        os.fsync(file.fileno())  # a cache of zeros after a power cut would look whole
    write_json(folder / "hashes.json", {"hashes": hashes})


class Batch(NamedTuple):
    """Images in [0, 1] with their labels and their positions in the image set."""

    images: Float[Tensor, "batch 3 size size"]
    labels: Int64[Tensor, " batch"]
    indices: Int64[Tensor, " batch"]


def batches(
    images: ImageSet,
    *,
    batch_size: int,
    order: Int[np.ndarray, " m"] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Batches in the given order of positions, or else of all images in turn; the last is shorter.

    Pixels travel to the device as bytes and become float32 there.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    order = np.arange(len(images)) if order is None else order
    parts = (order[start : start + batch_size] for start in range(0, len(order), batch_size))
    return (_batch(images, indices, device) for indices in parts)


def _batch(
    images: ImageSet, indices: Int[np.ndarray, " batch"], device: torch.device | str
) -> Batch:
    pixels = torch.from_numpy(images.read(indices)).to(device)
    return Batch(
        pixels.permute(0, 3, 1, 2).contiguous().float().div(255),
        torch.as_tensor(images.labels[indices], dtype=torch.int64, device=device),
        torch.as_tensor(indices, dtype=torch.int64, device=device),
    )


def _inverse(counts: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return 1 / counts


def _inverse_root(counts: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return counts.rsqrt()


SAMPLING: Registry[Callable[[Tensor], Tensor] | None] = Registry(
    "class weighting", inverse=_inverse, sqrt=_inverse_root, none=None
)
"""Weight of a sample, given how many its class has; None draws every sample once."""


def sampling_order(
    labels: Int[np.ndarray, " n"], *, class_weighted: str, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """Positions to train on in one epoch, as many as there are samples.

    `inverse` and `sqrt` draw with replacement with weight 1 / n_k and 1 / sqrt(n_k), where n_k is
    the size of the sample's class; with `inverse` all classes are equally frequent. `none` is a
    permutation. Depends on seed and epoch alone, not on torch's global generator.
    """
    weigh = SAMPLING[class_weighted]
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    if weigh is None:
        order = torch.randperm(len(labels), generator=generator)
    else:
        counts = torch.from_numpy(np.bincount(labels)[labels]).double()
        order = torch.multinomial(weigh(counts), len(labels), True, generator=generator)
    return order.numpy()
