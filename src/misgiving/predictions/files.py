"""Files of columns by name: `.csv`, `.parquet` and `.npz`; see `schema` for the columns."""

import csv
import json
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from misgiving.errors import DataError, UsageError, explain_damage, visible
from misgiving.files import escape_formulas, unescape_formulas, whole_file
from misgiving.predictions.schema import NUMBERS, ONCE, OUTPUTS, WHOLE, Column

if TYPE_CHECKING:
    import pandas

USUAL_BYTES = 2**30  # of the arrays in an `.npz`, however much it is compressed
MAX_COMPRESSION = 100  # times the size of the file, where they have more; logits hardly shrink
MAX_MESSAGE = 400  # characters of a message, which may quote a cell or name a thousand classes
REMEDY = "write the file again"


@contextmanager
def read_columns(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file; failures in the block name it as well.

    Raises:
        DataError: The file is missing or damaged, or the block refuses its columns.
    """
    if not path.is_file():  # reading a pipe would block for ever
        raise DataError(f"{path}: no such file, or not an ordinary file; check the path")
    read = _format(path)[0]
    try:
        with explain_damage(path, remedy=REMEDY):
            columns = read(path)
        if "path" in columns:
            places = (str(name) for name in columns["path"])
            columns["path"] = [str(path.parent / place) if place else "" for place in places]
        yield columns
    except DataError as error:
        message = visible(str(error).removeprefix(f"{path}: "))
        if len(message) > MAX_MESSAGE:  # keeps the place and the remedy
            message = f"{message[:MAX_MESSAGE]} ... {message[-100:]}"
        raise DataError(f"{path}: {message}") from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit into memory; give fewer rows") from error


def write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all; paths of images in its folder are relative to it.

    Raises:
        UsageError: No kind of file has this suffix.
    """
    write, columns = _format(path)[1], dict(columns)
    if "path" in columns:
        folder = path.parent.absolute()
        places = [Path(place).absolute() if place else None for place in columns["path"]]
        columns["path"] = [
            "" if place is None
            else str(place.relative_to(folder) if place.is_relative_to(folder) else place)
            for place in places
        ]  # fmt: skip
    with whole_file(path) as partial:
        write(partial, columns)


def _read_csv(path: Path) -> dict[str, Column]:
    import pandas

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [unescape_formulas(name.strip()) for name in next(csv.reader(file), [])]
        _check_header(header)
        kinds = {name: str for name in header if not name.startswith(NUMBERS)}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # of cells left out
            frame = pandas.read_csv(
                path,
                names=header,
                header=0,
                dtype=kinds,
                index_col=False,
                keep_default_na=False,
                low_memory=False,
                encoding="utf-8-sig",
            )
    except UnicodeDecodeError as error:
        raise DataError("is not UTF-8; save it as UTF-8 text") from error
    texts = {name: frame[name].tolist() for name in kinds}
    for name, cells in texts.items():
        if (short := next((row for row, cell in enumerate(cells) if cell != cell), -1)) >= 0:
            raise DataError(f"row {short + 1} has no cell of the column {name}")
        if any("'" in cell for cell in cells):
            texts[name] = [unescape_formulas(cell) for cell in cells]
    return {name: texts[name] if name in texts else frame[name].to_numpy() for name in header}


def _check_header(header: Sequence[str]) -> None:
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise DataError(f"columns are separated by {name}; separate them by commas")
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(f"two columns are named {repeated[0]!r}; give each its own name")


def _write_csv(path: Path, columns: dict[str, Any]) -> None:
    wide = {
        name: np.asarray(values, dtype=np.float64) if name.startswith(NUMBERS) else values
        for name, values in _single_columns(columns).items()
    }
    frame = _frame(wide)
    for name in frame.columns:
        if not name.startswith(NUMBERS):
            frame[name] = [escape_formulas(cell) for cell in frame[name]]
    frame.columns = [escape_formulas(name) for name in frame.columns]
    frame.to_csv(path, index=False, lineterminator="\r\n")  # so that either sign is quoted


def _read_parquet(path: Path) -> dict[str, Column]:
    import pandas

    frame = pandas.read_parquet(path)
    _check_header([*frame.columns])
    columns: dict[str, Any] = {name: frame[name].to_numpy() for name in frame.columns}
    return columns | {name: np.array(json.loads(value)) for name, value in frame.attrs.items()}


def _write_parquet(path: Path, columns: dict[str, Any]) -> None:
    frame = _frame(_single_columns(columns))
    head = {name: columns[name] for name in ("head_weight", "head_bias") if name in columns}
    frame.attrs = {name: json.dumps(values.tolist()) for name, values in head.items()}
    frame.to_parquet(path, index=False)


def _frame(columns: Mapping[str, Any]) -> "pandas.DataFrame":
    import pandas

    return pandas.DataFrame({name: _plain(values) for name, values in columns.items()})


def _plain(values: Any) -> Any:
    return values if isinstance(values, np.ndarray) else list(values)


def _single_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """One column for each class, feature and channel, and values of all images in each row."""
    count = len(columns["label"])
    single: dict[str, Any] = {
        name: values
        for name, values in columns.items()
        if name not in (*WHOLE, "logits", "features", "taps")
    }
    for name, values in zip(columns["classes"], columns["logits"].T, strict=True):
        single[f"{OUTPUTS['logits']}{name}"] = values
    for number, values in enumerate(columns.get("features", np.zeros((count, 0))).T):
        single[f"feature_{number}"] = values
    taps = columns.get("taps", np.zeros((count, 0)))
    widths = columns.get("tap_widths") or (taps.shape[1],)
    names = [f"tap_{tap}_{n}" for tap, width in enumerate(widths) for n in range(width)]
    single |= dict(zip(names, taps.T, strict=True))
    return single | {name: [columns[name]] * count for name in ONCE if name in columns}


def _read_npz(path: Path) -> dict[str, Column]:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(USUAL_BYTES, MAX_COMPRESSION * path.stat().st_size):
        raise DataError(
            f"its arrays have {size / 2**30:.0f} GiB, over {MAX_COMPRESSION} times the size of the "
            "file; save them without compression"
        )
    with np.load(path, allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    return {
        name: np.char.decode(values, "utf-8")
        if isinstance(values, np.ndarray) and values.dtype.kind == "S"
        else values
        for name, values in columns.items()
    }


def _write_npz(path: Path, columns: dict[str, Any]) -> None:
    arrays: dict[str, Any] = {name: np.asarray(values) for name, values in columns.items()}
    arrays = {
        # in UTF-8, which has a quarter of the bytes of NumPy's texts
        name: np.char.encode(array.astype(str), "utf-8") if array.dtype.kind in "OU" else array
        for name, array in arrays.items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


FORMATS: dict[
    str, tuple[Callable[[Path], dict[str, Column]], Callable[[Path, dict[str, Any]], None]]
] = {
    ".csv": (_read_csv, _write_csv),
    ".npz": (_read_npz, _write_npz),
    ".parquet": (_read_parquet, _write_parquet),
}
"""Functions that read and write a kind of file, by its suffix."""


def _format(path: Path) -> Any:
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: choose a name that ends in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]
