"""Parquet files that hold encoded images, as Hugging Face's `datasets` writes them."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from misgiving.data.datasets.dataset import SET_NAMES, SourceImage, file_key
from misgiving.data.decoding import read_bytes
from misgiving.errors import explain_damage
from misgiving.parquet_tables import read_parquet

IMAGE = "image"  # the column of images
GROUPS_IN_MEMORY = 2  # threads that read ahead may be in the next row group
MAKE_AGAIN = "make or fetch it again"
_reading = Lock()


@dataclass(frozen=True, eq=False)
class ParquetImage(SourceImage):
    """An image in a row group of a Parquet file; its path is read where the file lacks it."""

    file: Path
    group: int
    row: int
    path: Path

    def content(self) -> tuple[bytes, str]:
        with explain_damage(self.file, remedy=MAKE_AGAIN), _reading:
            images = _images_of(self.file, self.group, file_key(self.file))
            data = images[self.row]["bytes"] or read_bytes(self.path)
        return data, f"{self.file}: row {self.row} of row group {self.group}"

    def key(self) -> str:
        beside = file_key(self.path) if self.path.is_file() else ""
        return f"{file_key(self.file)}|{[self.group, self.row]}|{beside}"


@lru_cache(GROUPS_IN_MEMORY)
def _images_of(file: Path, group: int, _: str) -> list[dict[str, Any]]:
    from pyarrow.parquet import ParquetFile  # a tenth of a second, which no folder needs

    images: list[dict[str, Any]] = ParquetFile(file).read_row_group(group, [IMAGE])[0].to_pylist()
    return images


def parquet_images(place: Path) -> tuple[ParquetImage, ...]:
    """The images of `parquet_rows`, which stay in the files; empty where these hold none."""
    if not (files := parquet_files(place)):
        return ()
    from pyarrow.parquet import ParquetFile  # a tenth of a second

    held = []
    for file in files:
        with explain_damage(file, remedy=MAKE_AGAIN):
            content = ParquetFile(file)
            if IMAGE not in content.schema_arrow.names:
                continue
            images = content.read([f"{IMAGE}.path"])[0].to_pylist()
        paths = (file.parent / str(image and image["path"]) for image in images)
        for group in range(content.num_row_groups):
            rows = range(content.metadata.row_group(group).num_rows)
            held += [ParquetImage(file, group, row, next(paths)) for row in rows]
    return tuple(held)


def parquet_rows(place: Path) -> list[dict[str, Any]]:
    """Rows of all files as one table; with images, a row has its number as `path`.

    Labels that are positions of named classes become these names. Where each file is named by a
    set, as `train-00000-of-00002.parquet` is, the rows have it.
    """
    from pyarrow.parquet import read_schema

    files = parquet_files(place)
    schema = read_schema(files[0])
    names = [name for name in schema.names if name != IMAGE]
    starts = [file.stem.partition("-")[0] for file in files]
    sets = [{"set": name} if SET_NAMES.keys() >= {*starts} else {} for name in starts]
    parts = zip(files, sets, strict=True)
    rows = [own | row for file, own in parts for row in read_parquet(file, names).to_pylist()]
    if IMAGE in schema.names:
        rows = [{**row, "path": f"row-{number:06d}"} for number, row in enumerate(rows)]
    described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    label = described.get("info", {}).get("features", {}).get("label", {})
    classes = dict(enumerate(label.get("names", ())))
    return [{**row, "label": classes.get(row["label"])} for row in rows] if classes else rows


def parquet_files(place: Path) -> list[Path]:
    """The Parquet file, or those in a folder."""
    return [file for file in sorted(place.glob("*")) or [place] if file.suffix == ".parquet"]
