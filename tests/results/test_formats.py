import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

from misgiving.errors import DataError
from misgiving.results.formats import read_document, read_table, write_document, write_table


class Row(NamedTuple):
    name: str
    count: int
    share: float
    bound: float | None
    chosen: bool
    words: tuple[str, ...]


class Place(NamedTuple):
    set: str
    image: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    title: str
    rate: float
    weights: str | None
    sizes: tuple[int, ...]
    places: tuple[Place, ...]
    counts: dict[str, dict[str, int]]


ROW = Row("a,b\n", 3, 0.1, None, True, ("coverage", "error"))
FACTS = Facts(
    title="<a>",
    rate=1.0,
    weights=None,
    sizes=(1, 2),
    places=(Place("scans", "a/1.png"),),
    counts={"MEL": {"train": 4}},
)
HEADER = "name,count,share,bound,chosen,words"
LINE = "a,3,0.1,0.2,yes,coverage"


def table(folder, *lines):
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    return folder / "rows.csv"


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [ROW, ROW._replace(bound=-1e-300, chosen=False, words=(), share=1 / 3)]
    write_table(tmp_path / "rows.csv", Row, rows)
    assert read_table(tmp_path / "rows.csv", Row) == rows


def test_an_undefined_number_is_an_empty_cell(tmp_path):
    write_table(tmp_path / "rows.csv", Row, [ROW._replace(name="x", bound=math.nan)])
    assert (tmp_path / "rows.csv").read_text().splitlines()[1] == "x,3,0.1,,yes,coverage error"
    assert read_table(tmp_path / "rows.csv", Row)[0].bound is None


def test_a_table_without_rows_has_its_header(tmp_path):
    write_table(tmp_path / "rows.csv", Row, [])
    assert (tmp_path / "rows.csv").read_text() == HEADER + "\n"
    assert read_table(tmp_path / "rows.csv", Row) == []


def test_columns_are_found_by_their_names(tmp_path):
    path = table(tmp_path, "extra,count,name,share,bound,chosen,words", "?,3,a,0.1,0.2,yes,")
    assert read_table(path, Row) == [Row("a", 3, 0.1, 0.2, True, ())]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([HEADER.replace(",share", ""), LINE], "column share"),
        ([HEADER, LINE, "a,3"], "line 3 .*2 cells"),
        ([HEADER, LINE.replace("0.1", "many")], "line 2, column share: .*many"),
        ([HEADER, LINE.replace("0.1", "inf")], "line 2, column share: .*inf"),
        ([HEADER, LINE.replace("0.1", "")], "line 2, column share"),
        ([HEADER, LINE.replace("0.2", "-inf")], "line 2, column bound"),
        ([HEADER, LINE.replace(",3,", ",3.5,")], "line 2, column count: .*3.5"),
        ([HEADER, LINE.replace("yes", "true")], "line 2, column chosen: .*true"),
        ([HEADER, '"broken'], "unexpected end of data"),
        ([""], "column name"),
    ],
)
def test_a_damaged_table_is_refused_with_file_place_and_remedy(tmp_path, lines, reason):
    with pytest.raises(DataError, match=rf"rows\.csv.*{reason}.*run the command"):
        read_table(table(tmp_path, *lines), Row)


@pytest.mark.parametrize(("read", "kind"), [(read_table, Row), (read_document, Facts)])
def test_a_missing_file_is_refused_by_name(tmp_path, read, kind):
    with pytest.raises(DataError, match=r"rows\.csv"):
        read(tmp_path / "rows.csv", kind)


def test_a_table_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"rows\.csv"):
        read_table(tmp_path / "rows.csv", Row)


def test_a_document_is_read_as_it_was_written(tmp_path):
    write_document(tmp_path / "facts.json", FACTS)
    assert read_document(tmp_path / "facts.json", Facts) == FACTS


def test_documents_by_name_are_read_as_they_were_written(tmp_path):
    both = {"a": FACTS, "b": replace(FACTS, weights="w.safetensors")}
    write_document(tmp_path / "facts.json", both)
    assert read_document(tmp_path / "facts.json", dict[str, Facts]) == both


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"title": "<a>"', '"name": "<a>"', "title"),
        ('"image": "a/1.png"', '"image": 3', r"places\.0\.image .*str"),
        ('"train": 4', '"train": 4.5', r"counts\.MEL\.train .*int"),
        ('"rate": 1.0', '"rate": "fast"', "rate .*float"),
        ('"rate": 1.0', '"rate": true', "rate .*float"),
        ("{", "[", ""),
    ],
)
def test_a_damaged_document_is_refused_with_file_place_and_remedy(tmp_path, old, new, reason):
    write_document(tmp_path / "facts.json", FACTS)
    text = (tmp_path / "facts.json").read_text()
    (tmp_path / "facts.json").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=rf"facts\.json.*{reason}.*run the command"):
        read_document(tmp_path / "facts.json", Facts)
