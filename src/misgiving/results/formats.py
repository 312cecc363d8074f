"""Typed rows as CSV files and typed documents as JSON: one writer and one reader for each."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from misgiving.errors import explain_damage
from misgiving.files import csv_rows, write_csv, write_json

Row = TypeVar("Row")
Document = TypeVar("Document")
Parser = Callable[[str], Any]
PLAIN = {str, int, float, bool, NoneType}
REMEDY = "run the command that wrote it again"


def write_table(path: Path, kind: Callable[..., Row], rows: Iterable[Row]) -> None:
    """Write rows of one kind, whole or not at all; None and NaN become empty cells."""
    names = list(get_type_hints(kind))
    write_csv(path, names, ([_cell(getattr(row, name)) for name in names] for row in rows))


def _cell(value: object) -> object:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def read_table(path: Path, kind: Callable[..., Row]) -> list[Row]:
    """Read what `write_table` wrote; columns that are not fields of the row are ignored.

    Raises:
        DataError: The file is missing or damaged, a column is missing, or a cell has another type.
    """
    with explain_damage(path, remedy=REMEDY), path.open(encoding="utf-8", newline="") as file:
        lines = csv_rows(file)
        _, header = next(lines, (0, []))
        columns = _columns(header, get_type_hints(kind))
        return [kind(*_values(cells, number, header, columns)) for number, cells in lines]


def _columns(header: Sequence[str], hints: Mapping[str, Any]) -> dict[str, tuple[int, Parser]]:
    """Position and parser of each field, by name."""
    if missing := [name for name in hints if name not in header]:
        raise ValueError(f"column {', '.join(missing)} is missing")
    return {name: (header.index(name), _parser(hint)) for name, hint in hints.items()}


def _values(
    line: Sequence[str],
    number: int,
    header: Sequence[str],
    columns: Mapping[str, tuple[int, Parser]],
) -> list[Any]:
    if len(line) != len(header):
        raise ValueError(f"line {number} has {len(line)} cells instead of {len(header)}")
    values = []
    for name, (position, parse) in columns.items():
        try:
            values.append(parse(line[position]))
        except ValueError as error:
            raise ValueError(f"line {number}, column {name}: {error}") from error
    return values


def _parser(hint: Any) -> Parser:
    """Makes a value of a type from the text of a cell; found once for all cells of a column."""
    if get_origin(hint) is UnionType:
        kind, none = get_args(hint)
        parse = _parser(kind)
        if none is not NoneType:
            return parse
        return lambda text: None if text in ("", "nan") else parse(text)
    if get_origin(hint) is tuple:
        word = _parser(get_args(hint)[0])
        return lambda text: tuple(map(word, text.split()))
    parser: Parser = {bool: _yes_or_no, float: _finite}.get(hint, hint)
    return parser


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text == "yes"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def write_document(path: Path, content: object, *, compact: bool = False) -> None:
    """Write a dataclass, or a mapping of them, as JSON, whole or not at all."""
    write_json(path, encoded(content), compact=compact)


def encoded(value: Any) -> Any:
    """Make JSON values of dataclasses, named tuples, mappings and sequences."""
    if is_dataclass(value):
        return {name: encoded(getattr(value, name)) for name in get_type_hints(type(value))}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return encoded(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): encoded(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        plain = set(map(type, value)) <= PLAIN  # as a million names are
        return list(value) if plain else list(map(encoded, value))
    return value


def read_document(path: Path, kind: Callable[..., Document]) -> Document:
    """Read what `write_document` wrote.

    Raises:
        DataError: The file is missing or damaged, or a value is missing or has another type.
    """
    with explain_damage(path, remedy=REMEDY):
        document: Document = _decoded(json.loads(path.read_text(encoding="utf-8")), kind, "")
    return document


def _decoded(value: Any, hint: Any, where: str) -> Any:
    """A value of the wanted type; `where` names it in errors, as in `skipped.0.image`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is UnionType:
        return None if value is None else _decoded(value, arguments[0], where)
    if origin is tuple:
        return _items(_required(value, list, where), arguments[0], where)
    if origin is dict:
        items = _required(value, dict, where).items()
        return {name: _decoded(item, arguments[1], f"{where}.{name}") for name, item in items}
    if is_dataclass(hint) or hasattr(hint, "_fields"):
        return _fields(_required(value, dict, where), hint, where)
    kind = str if origin is Literal else hint
    return float(value) if kind is float and type(value) is int else _required(value, kind, where)


def _items(values: Sequence[Any], kind: Any, where: str) -> tuple[Any, ...]:
    if set(map(type, values)) == {kind}:  # as a million names are
        return tuple(values)
    return tuple(_decoded(item, kind, f"{where}.{number}") for number, item in enumerate(values))


def _fields(values: Mapping[str, Any], kind: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    if missing := [name for name in hints if name not in values]:
        raise ValueError(f"{where.strip('.') or 'the document'} lacks {', '.join(missing)}")
    return kind(**{name: _decoded(values[name], hints[name], f"{where}.{name}") for name in hints})


def _required(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{where.strip('.') or 'the document'} is not of type {kind.__name__}")
    return value
