"""A set as files, with a manifest by which anybody can tell that it is the same."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from misgiving.data.datasets import Dataset, HashedImage
from misgiving.data.ood_sets.built import Built
from misgiving.files import whole_folder, write_csv, write_json
from misgiving.manifests import sha256_of, sha256_of_lines


class ManifestRow(NamedTuple):
    """One image: its id, the group of the image or picture that it comes from, and its pixels.

    Attributes:
        id: As in the set.
        group: As in the set.
        sha256: Of the image's rows, columns and 8-bit RGB pixels, in hexadecimal.
    """

    id: str
    group: str
    sha256: str


def manifest(dataset: Dataset) -> Iterator[ManifestRow]:
    """A row for each image in order; one image is in memory at a time."""
    for index in range(len(dataset)):
        yield _row(dataset, index, dataset.images.read(index))


def checksum(rows: Iterable[ManifestRow]) -> str:
    """SHA-256 over the rows: two sets have the same when they hold the same images in one order."""
    return sha256_of_lines(map(",".join, rows))


def write_ood_set(built: Built, folder: Path) -> Path:
    """Write PNG files named by id, `manifest.csv` and `manifest.json`; all of it or nothing.

    The same set gives the same pixels, and with the same version of Pillow the same bytes. Bytes
    of an id that a file name cannot have are written as in a web address.

    Returns:
        The folder, which is replaced if it exists.
    """
    dataset = built.dataset
    with whole_folder(folder) as partial:
        rows = [_write_image(dataset, index, partial) for index in range(len(dataset))]
        write_csv(partial / "manifest.csv", ManifestRow._fields, rows)
        write_json(partial / "manifest.json", _facts(built, checksum(rows)))
    return folder


def _write_image(dataset: Dataset, index: int, folder: Path) -> ManifestRow:
    read = dataset.images.read(index)
    name = quote(dataset.ids[index], safe=" ()+,;=@")
    Image.fromarray(read.image).save(folder / f"{name}.png")
    return _row(dataset, index, read)


def _row(dataset: Dataset, index: int, read: HashedImage) -> ManifestRow:
    rows, columns = read.image.shape[:2]
    pixels = sha256_of(f"{rows} {columns} ".encode() + read.image.tobytes())
    return ManifestRow(dataset.ids[index], dataset.groups[index], pixels)


def _facts(built: Built, total: str) -> dict[str, object]:
    return {
        "name": built.dataset.name,
        "seed": built.seed,
        "count": len(built.dataset),
        "available": built.available,
        "left_out": built.left_out,
        "contents": built.dataset.contents,
        "checksum": total,
    }
