import csv
import json

import pytest
from pyarrow import parquet

from misgiving.deferral.decision_tables import DecisionRow, columns_of, writer_for
from misgiving.errors import UsageError

ACCEPTED = DecisionRow(
    path='a "quoted".png',
    predicted_class="mel, or not",
    probability=0.75,
    predicted_loss=-1.5,
    decision="accept",
    reason="w",
    error_probability=0.125,
    ood_p_value=0.5,
    acceptance_score=3.0,
    ood_score=1.0,
)
BROKEN = ACCEPTED._replace(
    path="b\nc.png", probability=None, decision="defer", acceptance_score=None
)
UNREADABLE = DecisionRow("d.png", unreadable="not an image")
FORMULAS = [
    '=HYPERLINK("http://x").png',
    "-2+3.png",
    "+a.png",
    "@a.png",
    "a;=1+1;.png",
    "a\n=1.png",
]


def read_csv(path):
    with path.open(newline="") as file:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]


READERS = {
    ".csv": read_csv,
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".parquet": lambda path: parquet.read_table(path).to_pylist(),
}


def written(path, rows, **columns):
    writer_for(path)(path, columns_of(**columns), iter(rows))
    return READERS[path.suffix](path)


@pytest.mark.parametrize("suffix", READERS)
def test_every_kind_of_file_says_the_same(tmp_path, suffix):
    decisions = [ACCEPTED, BROKEN, UNREADABLE]
    path = tmp_path / f"table{suffix}"
    rows = written(path, decisions, has_policy=True, unreadable=True)
    assert [row["path"] for row in rows] == ['a "quoted".png', "b\nc.png", "d.png"]
    assert [float(rows[0][name]) for name in ("error_probability", "predicted_loss")] == [
        0.125,
        -1.5,
    ]
    assert rows[0]["expected_loss"] is rows[0]["unreadable"] is None
    assert rows[1]["probability"] is rows[1]["acceptance_score"] is None
    assert rows[1]["decision"] == "defer"
    assert rows[2]["unreadable"] == "not an image"
    assert rows[2]["decision"] is rows[2]["probability"] is None
    (row,) = written(path, [ACCEPTED], has_policy=False)
    assert list(row) == ["path", "predicted_class", "probability", "predicted_loss"]


def test_no_text_in_a_csv_is_a_formula_and_other_kinds_of_file_have_it_as_it_is(tmp_path):
    decision = ACCEPTED._replace(predicted_class="=1+1", reason="-1+1")
    decisions = [decision._replace(path=name) for name in FORMULAS]
    rows = {
        suffix: written(tmp_path / f"t{suffix}", decisions, has_policy=True) for suffix in READERS
    }
    paths = [row["path"] for row in rows[".csv"]]
    assert paths == [*(f"'{name}" for name in FORMULAS[:4]), "a;'=1+1;.png", "a\n'=1.png"]
    assert (rows[".csv"][0]["predicted_class"], rows[".csv"][0]["reason"]) == ("'=1+1", "'-1+1")
    assert float(rows[".csv"][0]["predicted_loss"]) == -1.5
    for suffix in (".jsonl", ".parquet"):
        assert [row["path"] for row in rows[suffix]] == FORMULAS


def test_numbers_in_parquet_are_numbers_also_where_all_are_missing(tmp_path):
    path = tmp_path / "t.parquet"
    written(path, [UNREADABLE], has_policy=True)
    schema = parquet.read_schema(path)
    assert str(schema.field("acceptance_score").type) == "double"
    assert str(schema.field("reason").type) == "string"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError):
        writer_for(tmp_path / "table.xlsx")
