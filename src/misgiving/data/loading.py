"""Decode and preprocess a set once, then read batches of it.

The prepared pixels lie in a memory-mapped file, so a set may be larger than memory.
"""

import fcntl
import json
import os
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from misgiving.data.bad_images import FAIL, ON_BAD_IMAGE, collected, without
from misgiving.data.datasets import Dataset, HashedImage, preprocessed
from misgiving.data.intact import Checksums
from misgiving.data.memory import fresh
from misgiving.data.parallel import in_order
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import BadImage, DataError, UsageError
from misgiving.files import whole_folder, write_json
from misgiving.manifests import crc32_of, seal, sha256_of_json, sha256_of_lines, verify
from misgiving.registry import Registry

Report = Callable[[int, int], None]
"""Called with how many images are done, and of how many."""

RECORD = "hashes.json"  # what is stored in images.npy
FORMAT = 4  # of the cache; raise it whenever the same settings give other pixels

BATCHES_AHEAD = 2  # that are read while one is used


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
        skipped: Images that cannot be read, which the whole set was left without.
        checksums: Tell whether stored pixels are as they were written; None where nobody knows.
    """

    images: UInt8[np.ndarray, "stored size size 3"]
    rows: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    hashes: tuple[str, ...]
    classes: tuple[str, ...]
    skipped: tuple[BadImage, ...] = ()
    checksums: Checksums | None = None

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
        """Pixels of these images in memory, in this order.

        Raises:
            DataError: The cache was damaged after they were written.
        """
        rows = self.rows[indices]
        ascending = np.argsort(rows, kind="stable")  # the disk is read in one direction
        pixels = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
        pixels[ascending] = self.images[rows[ascending]]
        if self.checksums:
            self.checksums.check(rows, pixels)
        return pixels

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the hashes and labels in their order: equal for equal content."""
        lines = zip(self.hashes, self.labels, strict=True)
        return sha256_of_lines(f"{name}:{label}" for name, label in lines)


def prepare(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    cache: Path,
    report: Report | None = None,
    on_bad_image: str = FAIL,
) -> ImageSet:
    """Decode and preprocess every image, or find that this was done before.

    The work is kept in a folder of `cache` that is named by everything that the pixels depend on:
    a changed file or setting gives another folder. Of several processes that prepare one set, the
    first does the work and the others wait for it. Prepare a whole set and `select` from it:
    a selection prepared on its own is stored again.

    Args:
        dataset: The set.
        preprocessing: What to do to each image.
        cache: Where to keep the work.
        report: Told how many images are done, of how many.
        on_bad_image: `fail` looks at all images and then refuses those that cannot be read; `skip`
            goes on without them, and `skipped` of the result says which. What is kept says it too,
            so that `fail` still fails afterwards; bad images are tried again each time.

    Raises:
        BadImages: Images cannot be read and it is not gone on without them.
        OSError: The cache cannot be written; nothing of this set is left in it.
    """
    rule = ON_BAD_IMAGE[on_bad_image]
    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: there is no image to prepare; choose a set that has some")
    folder = cache / _cache_name(dataset, preprocessing)
    shape = (len(dataset), preprocessing.image_size, preprocessing.image_size, 3)
    task = _Task(
        find=lambda: _stored(folder, shape, dataset.ids),
        start=lambda: _preprocessed(dataset, preprocessing),
        refuse=lambda bad: rule(bad, len(dataset)),
        still_bad=lambda bad: _are_still_bad(dataset, {one.image for one in bad}),
    )
    stored = task.find_current() or _prepare_alone(folder, shape, task, report)
    task.refuse(stored.bad)
    kept = without(dataset, stored.bad) if stored.bad else dataset
    rows = np.flatnonzero([name != "" for name in stored.hashes])
    return ImageSet(
        images=stored.images,
        rows=rows,
        labels=kept.labels,
        ids=kept.ids,
        groups=kept.groups,
        hashes=tuple(stored.hashes[row] for row in rows),
        classes=kept.classes,
        skipped=stored.bad,
        checksums=stored.checksums,
    )


class _Stored(NamedTuple):
    """What the cache holds: a bad image has a row of zeros and an empty hash."""

    images: UInt8[np.ndarray, "n size size 3"]
    hashes: tuple[str, ...]
    bad: tuple[BadImage, ...]
    checksums: Checksums


class _Task(NamedTuple):
    """How a set is found in the cache, how it is made, and what bad images mean."""

    find: Callable[[], _Stored | None]
    start: Callable[[], Generator[HashedImage | BadImage]]
    refuse: Callable[[Sequence[BadImage]], None]
    still_bad: Callable[[Sequence[BadImage]], bool]

    def find_current(self) -> _Stored | None:
        """What the cache holds, unless an image that it lacks can be read by now."""
        stored = self.find()
        return stored if stored and self.still_bad(stored.bad) else None


def _cache_name(dataset: Dataset, preprocessing: Preprocessing) -> str:
    """SHA-256 of what the stored pixels depend on; labels are not among it."""
    content = {
        "format": FORMAT,
        "preprocessing": preprocessing.to_dict(),
        "ids": dataset.ids,
        "keys": [_key(dataset, index) for index in range(len(dataset))],
    }
    return sha256_of_json(content)


def _key(dataset: Dataset, index: int) -> str | None:
    """The key of an image; None where there is none, as of a file that is gone."""
    try:
        return dataset.images.key(index)
    except DataError:
        return None


def _stored(folder: Path, shape: tuple[int, ...], ids: Sequence[str]) -> _Stored | None:
    """What the cache holds; None if it holds nothing or what it holds is damaged."""
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        verify(folder, [RECORD], remedy="prepare the images again")
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        hashes = tuple(str(name) for name in record["hashes"])
        bad = tuple(BadImage(*map(str, one)) for one in record["bad"])
        checksums = Checksums(folder / RECORD, np.array(record["checksums"], dtype=np.int64))
    except Exception:  # on damaged files, numpy's reader raises almost anything
        return None
    whole = isinstance(images, np.memmap) and images.shape == shape and images.dtype == np.uint8
    absent = {name for name, content in zip(ids, hashes, strict=False) if not content}
    if not (whole and len(hashes) == len(images) and absent == {one.image for one in bad}):
        return None
    return _Stored(images, hashes, bad, checksums)


def _are_still_bad(dataset: Dataset, names: Container[str]) -> bool:
    """Whether none of these images can be read by now: permissions and disks are repaired."""
    read = collected(dataset.images.read, dataset.ids)
    return all(
        isinstance(read(index), BadImage) for index, name in enumerate(dataset.ids) if name in names
    )


def _prepare_alone(
    folder: Path, shape: tuple[int, ...], task: _Task, report: Report | None
) -> _Stored:
    with _alone(folder.with_suffix(".lock")):
        if stored := task.find_current():
            return stored
        with closing(task.start()) as images, whole_folder(folder) as unfinished:
            task.refuse(_write(unfinished, shape, images, report))
        if stored := task.find():
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


def _preprocessed(
    dataset: Dataset, preprocessing: Preprocessing
) -> Generator[HashedImage | BadImage]:
    """Every image in order."""

    def work(index: int) -> HashedImage:
        return preprocessed(dataset.images, index, preprocessing)

    return in_order(collected(work, dataset.ids), len(dataset))


def _write(
    folder: Path,
    shape: tuple[int, ...],
    images: Iterable[HashedImage | BadImage],
    report: Report | None,
) -> list[BadImage]:
    """Write with ordinary writes: through a memory map, a full disk would kill the process.

    Returns:
        The images that cannot be read.
    """
    hashes: list[str] = []
    checksums: list[int] = []
    bad: list[BadImage] = []
    nothing = np.zeros(shape[1:], dtype=np.uint8)
    with (folder / "images.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for one in images:
            name, image = ("", nothing) if isinstance(one, BadImage) else one
            bad += [one] if isinstance(one, BadImage) else []
            pixels = image.tobytes()
            file.write(pixels)
            hashes.append(name)
            checksums.append(crc32_of(pixels))
            if report:
                report(len(hashes), shape[0])
        file.flush()
        os.fsync(file.fileno())  # a cache of zeros after a power cut would look whole
    write_json(folder / RECORD, {"hashes": hashes, "checksums": checksums, "bad": bad})
    seal(folder, [RECORD])
    return bad


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

    A thread reads two batches ahead. Pixels travel to the device as bytes, from pinned memory to a
    GPU, and become float32 there.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {batch_size}")
    order = np.arange(len(images)) if order is None else order
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    pinned = torch.device(device).type == "cuda"
    read = in_order(
        lambda number: _read(images, parts[number], pinned=pinned),
        len(parts),
        workers=1,
        ahead=1 + BATCHES_AHEAD,
    )
    return (_on_device(stored, device) for stored in read)


class _Read(NamedTuple):
    """A batch as it is stored, in memory."""

    pixels: UInt8[Tensor, "batch size size 3"]
    labels: Int64[Tensor, " batch"]
    indices: Int64[Tensor, " batch"]


def _read(images: ImageSet, indices: Int[np.ndarray, " batch"], *, pinned: bool) -> _Read:
    arrays = (
        images.read(indices),
        images.labels[indices].astype(np.int64),
        indices.astype(np.int64),
    )
    tensors = (torch.from_numpy(array) for array in arrays)
    return _Read(*(tensor.pin_memory() if pinned else tensor for tensor in tensors))


def _on_device(stored: _Read, device: torch.device | str) -> Batch:
    pixels, labels, indices = (
        tensor.to(device, non_blocking=tensor.is_pinned())  # such copies need not be waited for
        for tensor in stored
    )
    return Batch(_fractions(pixels), labels, indices)


def _fractions(
    pixels: UInt8[Tensor, "batch size size 3"],
) -> Float[Tensor, "batch 3 size size"]:
    """Values in [0, 1], with the channels first."""
    count, height, width, channels = pixels.shape
    shape = (count, channels, height, width)
    fractions = fresh(shape, dtype=torch.float32, device=pixels.device)
    return fractions.copy_(pixels.permute(0, 3, 1, 2)).div_(255)


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
