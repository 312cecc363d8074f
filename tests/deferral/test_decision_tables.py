import csv
import json

import pandas as pd
import pytest
from pyarrow import parquet

from misgiving.deferral.decision_tables import check_kind, write_table
from misgiving.deferral.decisions import COLUMNS, NUMBERS
from misgiving.errors import UsageError

DECISION = {
    "predicted_class": "mel, or not",
    "probability": 0.75,
    "predicted_loss": -1.5,
    "answer": None,
    "decision": "accept",
    "reason": "w",
    "error_probability": 0.125,
    "expected_cost": None,
    "expected_loss": None,
    "ood_p_value": 0.5,
    "acceptance_score": 3.0,
    "ood_score": 1.0,
    "probability_mel, or not": 0.75,
    "probability_loss": 0.25,
}
LOST = {"probability": None, "decision": "defer", "acceptance_score": None}
ROWS = [
    {"path": '=1+1 a "quoted".png', **DECISION, "unreadable": None},
    {"path": "b\nc.png", **DECISION, **LOST, "probability_mel, or not": None, "unreadable": None},
    {"path": "d.png", **dict.fromkeys(DECISION), "unreadable": "not an image"},
]


def table_of(rows):
    """Numbers are NaN where they are missing, as in the table of a command."""
    table = pd.DataFrame(rows)
    kinds = {name: float for name in table if name in NUMBERS or name.startswith("probability_")}
    return table.astype(kinds)


def read_csv(path):
    with path.open(newline="") as file:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]


READERS = {
    ".csv": read_csv,
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".parquet": lambda path: parquet.read_table(path).to_pylist(),
}


@pytest.mark.parametrize("suffix", READERS)
def test_every_kind_of_file_says_the_same_and_a_csv_holds_no_formula(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(path, table_of(ROWS))
    rows = READERS[suffix](path)
    assert {*COLUMNS} <= {*DECISION}
    for row, expected in zip(rows, ROWS, strict=True):
        assert [*row] == [*expected]
        escaped = suffix == ".csv" and expected["path"].startswith("=")
        for name, value in {**expected, "path": "'" * escaped + expected["path"]}.items():
            number = isinstance(value, float)
            assert (float(row[name]) if number else row[name]) == value


def test_numbers_in_parquet_are_numbers_also_where_all_are_missing(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, table_of([ROWS[2]]))
    schema = parquet.read_schema(path)
    assert str(schema.field("acceptance_score").type) == "double"
    assert str(schema.field("reason").type) == "string"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError):
        check_kind(tmp_path / "table.xlsx")
