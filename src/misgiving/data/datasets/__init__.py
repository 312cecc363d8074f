"""Image sets that are not decoded yet: the forms in which they are named, and their folders."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from misgiving.csv_tables import write_csv
from misgiving.data.datasets.dataset import SET_NAMES, ArrayImage, Dataset, FileImage
from misgiving.data.datasets.medmnist import read_medmnist
from misgiving.data.datasets.parquet import parquet_images
from misgiving.data.datasets.tables import (
    existing_folder,
    listing,
    read_ham10000,
    read_isic2019,
    read_labelled_table,
    read_table,
)
from misgiving.data.decoding import (
    DICOM,
    DICOM_SUFFIXES,
    HEIF,
    HEIF_SUFFIXES,
    ignored_sentences,
    is_dicom,
    read_bytes,
)
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.files import sha256_of, sha256_of_lines, whole_folder, write_json

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif"),
    *(HEIF_SUFFIXES if HEIF else ()),
    *(DICOM_SUFFIXES if DICOM else ()),
)
CALIBRATION_IMAGES = 1000  # images: enough to certify an error rate of 5 % on 15 % of them
METADATA_FILES = ("metadata.csv", "metadata.jsonl")
MANIFEST, MANIFEST_FACTS = "manifest.csv", "manifest.json"  # of OOD images: ids, groups, checksums


def load_dataset(spec: str | Dataset) -> Dataset:
    """The data set named `digits`, `folder:FOLDER`, `ham10000:FOLDER` and so on, as in `FORMS`.

    No image is opened. A data set that is loaded already is returned as it is.

    Raises:
        UsageError: The name has none of these forms.
        DataError: The named data cannot be used.

    >>> load_dataset("digits").classes[:3]
    ('0', '1', '2')
    """
    if isinstance(spec, Dataset):
        return spec
    kind, _, place = spec.partition(":")
    form, read = FORMS.get(kind, ("", None))
    if read is None or bool(place) != (":" in form):
        forms = ", ".join(form for form, _ in FORMS.values())
        form = form or (f"folder:{spec}" if Path(spec).is_dir() else "")
        raise UsageError(f"unknown data {spec!r}; write {form or f'one of {forms}'}")
    return replace(read(place), name=spec)


def tables_of(spec: str) -> list[Path]:
    """The user's own table of `table:FILE`; an `out` must not replace it."""
    kind, _, place = spec.partition(":")
    return [Path(place).expanduser()] if kind == "table" else []


def read_folder(place: str) -> Dataset:
    """A folder with one sub-folder per class, in which images are found at any depth.

    Or with one per set of a split (`train`, `val`, `test`), which have these. Or, as Hugging Face
    lays them out, with a table of them in `metadata.csv` or `metadata.jsonl`, or with Parquet files
    that hold them.
    """
    folder = existing_folder(place)
    tables = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    tables = [table for table in tables if b"file_name" in read_bytes(table)]
    if tables or parquet_images(folder):
        dataset = read_labelled_table(str([*tables, folder][0]))
        return replace(dataset, ignored=_unlisted(folder, dataset)) if tables else dataset
    ignored: Counter[str] = Counter()
    parts = _folders_in(folder, ignored)
    are_sets = bool(parts) and SET_NAMES.keys() >= {*map(str.lower, parts)}
    classes_of = {part: _folders_in(folder / part, ignored) for part in parts if are_sets}
    classes_of = classes_of or {"": parts}
    places = [(part, name) for part, names in classes_of.items() for name in names]
    images = [_images_in(folder / part / name, ignored) for part, name in places]
    counts = [*map(len, images)]
    with_images = [name for (_, name), count in zip(places, counts, strict=True) if count]
    classes = sorted({*with_images})
    if len(classes) < 2:
        where = f" in {', '.join(parts)}" if are_sets else ""
        about = "; ".join(["fewer than two class folders with images", *ignored_sentences(ignored)])
        raise DataError(f"{folder}: {about}; give each class its own folder{where}")
    paths = tuple(Path(name) for names in images for name in names)
    ids = tuple(path.relative_to(folder).as_posix() for path in paths)
    labels = [classes.index(name) for name in with_images]
    sets = [SET_NAMES.get(part.lower(), "") for part, _ in places]
    return Dataset(
        name=place,
        classes=tuple(classes),
        labels=np.repeat(np.array(labels), [count for count in counts if count]),
        ids=ids,
        groups=("",) * len(ids),
        images=tuple(map(FileImage, paths)),
        sets=tuple(np.repeat(sets, counts).tolist()) if are_sets else (),
        ignored=ignored,
        empty=tuple(sorted({name for _, name in places} - {*classes})),
    )


def _folders_in(folder: Path, ignored: Counter[str]) -> list[str]:
    """Names of the folders in a folder, whose other files are counted as ignored."""
    folders = []
    for name in sorted(listing(folder)):
        if (folder / name).is_dir():
            folders.append(name)
        else:
            suffix = Path(name).suffix.lower()
            ignored[suffix + " in no class folder" * (suffix in SUFFIXES)] += 1
    return folders


def _unlisted(folder: Path, dataset: Dataset) -> Counter[str]:
    """Number of images in a folder that are not in its table, by suffix."""
    listed = {os.path.abspath(folder / name) for name in dataset.ids}  # noqa: PTH100
    unlisted = {*map(os.path.abspath, _images_in(folder, Counter()))} - listed
    return Counter(f"{Path(name).suffix.lower()} not in the table" for name in unlisted)


def _images_in(folder: Path, ignored: Counter[str]) -> list[str]:
    """Images at any depth, ordered by their paths; links are followed, but no folder is read twice.

    A link to a folder above leads nowhere: its images may be of other classes. Other files are
    counted by their suffix.
    """
    above = [folder.resolve(), folder.absolute().parent.resolve()]
    names: list[str] = []
    read: set[Path] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = Path(os.path.realpath(parent))
        if real in read or (read and any(path.is_relative_to(real) for path in above)):
            folders.clear()
            continue
        read.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = [name for name in files if not name.startswith(".")]
        images = [
            name
            for name in files
            if name.lower().endswith(SUFFIXES) or is_dicom(Path(parent, name))
        ]
        names += [f"{parent}/{name}".removeprefix("./") for name in images]
        ignored.update(Path(name).suffix.lower() for name in {*files} - {*images})
    return sorted(names, key=lambda name: name.replace(os.sep, "\0"))  # as paths are ordered


def _raise(failure: OSError) -> None:
    raise failure


def unlabelled_images(places: Sequence[Path], *, name: str) -> Dataset:
    """These image files, and all images in these folders at any depth, each once; no classes.

    A file that is found twice has the name under which it was found first.

    Raises:
        DataError: A file or folder does not exist, a folder has no image, or a name is not UTF-8.
    """
    ignored: Counter[str] = Counter()
    ids = [image for place in places for image in _images_at(place, ignored)]
    if len(places) > 1:
        first: dict[str, str] = {}
        for image in ids:
            first.setdefault(os.path.abspath(image), image)  # noqa: PTH100  # Path: ten times as long
        ids = [*first.values()]
    return Dataset(
        name=name,
        classes=("unlabelled",),
        labels=np.zeros(len(ids), dtype=np.int64),
        ids=tuple(ids),
        groups=("",) * len(ids),
        images=tuple(FileImage(Path(name)) for name in ids),
        contents=f"{len(ids)} images of {name}",
        ignored=ignored,
    )


def _images_at(place: Path, ignored: Counter[str]) -> list[str]:
    if place.is_file():
        return [str(place)]
    if not place.is_dir():
        raise DataError(f"{place}: no such file or folder; check the path")
    if not (names := _images_in(place, ignored)):
        kinds = ", ".join(suffix[1:] for suffix in SUFFIXES)
        about = "; ".join([f"contains no images ({kinds})", *ignored_sentences(ignored)])
        raise DataError(f"{place}: {about}; add some, or leave it out")
    return names


def read_ood_folder(folder: Path, *, name: str) -> Dataset:
    """The images of a folder, with the groups of a set that `write_ood_set` wrote."""
    images, manifest = unlabelled_images([folder], name=name), folder / MANIFEST
    if not (manifest.is_file() and (folder / MANIFEST_FACTS).is_file()):
        return images
    rows = read_table(manifest, ["id", "group"])
    group_of = dict(zip(map(_file_name, rows["id"]), rows["group"], strict=True))
    groups = [group_of.get(Path(path).name, "") for path in images.ids]
    return replace(images, groups=tuple(groups), group_columns=("group",), ignored={})


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
            image = dataset.images[index].read().image
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


def _read_digits(_: str) -> Dataset:
    """1,797 handwritten digits of 8 x 8 pixels, as dark ink on white paper (scikit-learn)."""
    from sklearn.datasets import load_digits  # slow to import; reading files does not need it

    bunch = load_digits()
    ink = np.rint(255 - bunch.images * (255 / 16)).astype(np.uint8)
    ids = tuple(f"digit-{number:04d}" for number in range(len(ink)))
    return Dataset(
        name="digits",
        classes=tuple(str(name) for name in bunch.target_names),
        labels=bunch.target.astype(np.int64),
        ids=ids,
        groups=("",) * len(ids),
        images=tuple(map(ArrayImage, np.repeat(ink[..., None], 3, axis=3))),
        preprocessing=Preprocessing(image_size=16, crop=1.0, color_constancy="none"),
        contents="1797 handwritten digits of 8 x 8 pixels from scikit-learn",
    )


def write_sample(folder: Path, *, new: bool = False) -> None:
    """Write 1,000 digits, or the 797 others, as PNG files in a folder for each class."""
    if folder.exists():
        raise UsageError(f"{folder}: exists; choose another folder")
    digits = _read_digits("")
    order = np.random.default_rng(0).permutation(len(digits)).tolist()
    with whole_folder(folder) as partial:
        for name in digits.classes:
            (partial / name).mkdir()
        for index in order[CALIBRATION_IMAGES:] if new else order[:CALIBRATION_IMAGES]:
            file = partial / digits.classes[digits.labels[index]] / f"{digits.ids[index]}.png"
            Image.fromarray(digits.images[index].read().image).save(file)


FORMS: dict[str, tuple[str, Callable[[str], Dataset]]] = {
    "digits": ("digits", _read_digits),
    "folder": ("folder:FOLDER", read_folder),
    "table": ("table:FILE", read_labelled_table),
    "isic2019": ("isic2019:FOLDER", read_isic2019),
    "ham10000": ("ham10000:FOLDER", read_ham10000),
    "medmnist": ("medmnist:FILE.npz", read_medmnist),
}
"""The form in which data of each kind are named, and their reader, given the text after the colon.
"""
