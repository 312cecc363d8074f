"""Folders of out-of-distribution images: PNG files with a manifest of ids, groups and checksums."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from misgiving.csv_tables import write_csv
from misgiving.data.datasets import unlabelled_images
from misgiving.data.datasets.dataset import Dataset
from misgiving.data.datasets.tables import read_table
from misgiving.files import sha256_of, sha256_of_lines, whole_folder, write_json

MANIFEST, MANIFEST_FACTS = "manifest.csv", "manifest.json"


def read_ood_folder(folder: Path, *, name: str) -> Dataset:
    """The images of a folder, with the groups of a set that `write_ood_set` wrote."""
    images, manifest = unlabelled_images([folder], name=name), folder / MANIFEST
    if not (manifest.is_file() and (folder / MANIFEST_FACTS).is_file()):
        return images
    rows = read_table(manifest, ["id", "group"])
    group_of = dict(zip(map(_file_name, rows["id"]), rows["group"], strict=True))
    groups = [group_of.get(Path(path).name, "") for path in images.ids]
    return replace(images, groups=tuple(groups), group_columns=("group",))


def _file_name(identity: str) -> str:
    """The file of an image; bytes that a name cannot have are written as in a web address."""
    return f"{quote(identity, safe=' ()+,;=@')}.png"


def write_ood_set(dataset: Dataset, folder: Path, *, seed: int) -> Path:
    """Write PNG files named by id, `manifest.csv` and `manifest.json`, replacing the folder.

    A row of the manifest has an image's id, group and SHA-256 of rows, columns and RGB pixels. The
    same set gives the same pixels, and with the same version of Pillow the same bytes.
    """
    with whole_folder(folder) as partial_folder:
        rows = []
        for index, identity in enumerate(dataset.ids):
            image = dataset.images.read(index).image
            Image.fromarray(image).save(partial_folder / _file_name(identity))
            height, width = image.shape[:2]
            pixels = sha256_of(f"{height} {width} ".encode() + image.tobytes())
            rows.append((identity, dataset.groups[index], pixels))
        facts = {
            "name": dataset.name,
            "seed": seed,
            "count": len(dataset),
            "left_out": dataset.left_out,
            "contents": dataset.contents,
            "checksum": sha256_of_lines(map(",".join, rows)),
        }
        write_csv(partial_folder / MANIFEST, ("id", "group", "sha256"), rows)
        write_json(partial_folder / MANIFEST_FACTS, facts)
    return folder
