"""Prepared image sets: decoded and preprocessed once, and kept in a memory-mapped file.

A set may be larger than memory.
"""

import os
import zlib
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from misgiving.data.datasets.dataset import (
    Dataset,
    HashedImage,
    LabelledImages,
    without,
)
from misgiving.data.datasets.tags import with_tags
from misgiving.data.decoding import (
    FAIL,
    BadImage,
    check_bad_images,
    in_order,
    returning_bad_images,
)
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError
from misgiving.files import (
    locked,
    read_json,
    seal,
    sha256_of_json,
    sha256_of_lines,
    verify,
    whole_folder,
    write_json,
)

Report = Callable[[int, int], None]
"""Called with the number of images that are done, and the total."""

RECORD = "hashes.json"  # hash and checksum of each image in images.npy, and the bad images
TINY = Preprocessing(image_size=1, crop=1.0, color_constancy="none")
CACHE_FORMAT = 1  # of the cache; raise it whenever the same settings give other pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSet(LabelledImages):
    """A prepared image set, or some images of one; the pixels are shared, not copied.

    Attributes:
        images: All stored pixels, memory-mapped; `rows` selects those of this set.
        rows: For each image of this set, its row in `images`.
        hashes: SHA-256 of the content that each image was decoded from, in hexadecimal.
        skipped: Unreadable images, which the whole set was left without.
        unchecked: CRC-32 of the stored images of a cache that are not read yet, by row. A check of
            every read would take a tenth of the time of reading.
        record: File of the cache that has the checksums; None for images in memory.
    """

    BY_ROW = (*LabelledImages.BY_ROW, "rows", "hashes")

    images: UInt8[np.ndarray, "stored size size 3"]
    rows: Int[np.ndarray, " n"]
    hashes: tuple[str, ...]
    skipped: tuple[BadImage, ...] = ()
    unchecked: dict[int, int] = field(default_factory=dict)
    record: Path | None = None

    def read(self, indices: Int[np.ndarray, " m"]) -> UInt8[np.ndarray, "m size size 3"]:
        """Pixels of these images, in this order.

        Raises:
            DataError: The cache was damaged; the set is prepared again next time.
        """
        rows = self.rows[indices]
        ascending = np.argsort(rows, kind="stable")  # reads the disk in one direction
        pixels = np.empty((len(rows), *self.images.shape[1:]), dtype=np.uint8)
        pixels[ascending] = self.images[rows[ascending]]
        for row, image in zip(rows.tolist(), pixels, strict=True):
            expected = self.unchecked.get(row)
            if self.record and expected is not None and zlib.crc32(image) != expected:
                with suppress(OSError):  # of a read-only cache
                    self.record.unlink(missing_ok=True)
                raise DataError(
                    f"{self.record.parent}: a prepared image was damaged or changed; run the same "
                    "command again, or remove that folder first if it is read-only"
                )
            self.unchecked.pop(row, None)
        return pixels

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the hashes and labels in their order."""
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
    """Decode and preprocess every image, unless the cache holds the result.

    The result is kept in a folder of `cache` whose name depends on everything that determines the
    pixels: a changed file or setting gives another folder. Of several processes that prepare one
    set, the first does the work and the others wait. Prepare a whole set and `select` from it, as
    each prepared selection is stored separately.

    With `on_bad_image="fail"`, all images are read and the unreadable ones are an error; `skip`
    leaves them out, and `skipped` of the result lists them. The cache records them, so that `fail`
    still fails later; they are tried again each time.

    Raises:
        BadImagesError: Images cannot be read, and are not skipped.
        OSError: The cache cannot be written; nothing of this set is left in it.
    """
    dataset = with_tags(dataset, preprocessing)
    folder = cache / _entry_name(dataset, preprocessing)
    shape = (len(dataset), preprocessing.image_size, preprocessing.image_size, 3)
    images = _load(folder, dataset, shape)
    if images is None:
        with locked(folder.with_suffix(".lock")):
            images = _load(folder, dataset, shape)  # of a process that was faster
            if images is None:
                with whole_folder(folder) as unfinished:
                    bad = _write(unfinished, dataset, preprocessing, shape, report)
                    check_bad_images(bad, len(dataset), on_bad_image)
                images = _load(folder, dataset, shape)
    if images is None:
        raise OSError(f"{folder}: cannot be read back after it was written; check the disk")
    check_bad_images(images.skipped, len(dataset), on_bad_image)
    if images.skipped:
        without(dataset, images.skipped)  # checks that no class is left without images
    return images


def bad_images(dataset: Dataset, report: Report) -> list[BadImage]:
    """The images that cannot be read; JPEG files are decoded as small as possible."""
    bad = []
    work = returning_bad_images(lambda index: dataset.images[index].read(TINY), dataset.ids)
    for done, result in enumerate(in_order(work, len(dataset)), start=1):
        bad += [result] if isinstance(result, BadImage) else []
        report(done, len(dataset))
    return bad


def _entry_name(dataset: Dataset, preprocessing: Preprocessing) -> str:
    """SHA-256 of everything that determines the pixels; labels do not."""
    key = returning_bad_images(lambda index: dataset.images[index].key(), dataset.ids)  # or gone
    return sha256_of_json(
        {
            "format": CACHE_FORMAT,
            "preprocessing": asdict(preprocessing),
            "ids": dataset.ids,
            "keys": [key(index) for index in range(len(dataset))],
        }
    )


def _load(folder: Path, dataset: Dataset, shape: tuple[int, ...]) -> ImageSet | None:
    """The images of a cache folder.

    None if there are none, the folder is damaged, or an image that could not be read can be by now.
    """
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        verify(folder, [RECORD], remedy="")
        record = read_json(folder / RECORD, remedy="")
        if (images.dtype, images.shape) != (np.uint8, shape):
            return None
    except Exception:  # numpy's reader raises almost anything on damaged files
        return None
    retry = returning_bad_images(lambda index: dataset.images[index].read(), dataset.ids)
    hashes = np.array(record["hashes"])
    for index in np.flatnonzero(hashes == ""):
        if not isinstance(retry(int(index)), BadImage):
            return None
    rows = np.flatnonzero(hashes != "")
    readable = dataset.select(rows)
    return ImageSet(
        images=images,
        rows=rows,
        hashes=tuple(hashes[rows].tolist()),
        skipped=tuple(BadImage(*image) for image in record["bad"]),
        unchecked=dict(enumerate(record["checksums"])),
        record=folder / RECORD,
        **{fact.name: getattr(readable, fact.name) for fact in fields(LabelledImages)},
    )


def _write(
    folder: Path,
    dataset: Dataset,
    preprocessing: Preprocessing,
    shape: tuple[int, ...],
    report: Report | None,
) -> list[BadImage]:
    """Write all prepared images, and return the bad ones: rows of zeros with an empty hash.

    Ordinary writes are used: through a memory map, a full disk would kill the process.
    """
    hashes: list[str] = []
    checksums: list[int] = []
    bad: list[BadImage] = []
    nothing = HashedImage("", np.zeros(shape[1:], dtype=np.uint8))
    work = returning_bad_images(
        lambda index: dataset.images[index].read(preprocessing), dataset.ids
    )
    with (
        closing(in_order(work, len(dataset))) as images,
        (folder / "images.npy").open("wb") as file,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for result in images:
            if isinstance(result, BadImage):
                bad.append(result)
            name, image = nothing if isinstance(result, BadImage) else result
            file.write(image.tobytes())
            hashes.append(name)
            checksums.append(zlib.crc32(image.tobytes()))
            if report:
                report(len(hashes), len(dataset))
        file.flush()
        os.fsync(file.fileno())  # a file of zeros after a power failure would look whole
    write_json(folder / RECORD, {"hashes": hashes, "checksums": checksums, "bad": bad})
    seal(folder, [RECORD])
    return bad
