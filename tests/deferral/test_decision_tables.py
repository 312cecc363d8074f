import csv
import json

import pytest
from pyarrow import parquet

from misgiving.deferral.decision_tables import DecisionRow, check_kind, columns_of, write_table
from misgiving.deferral.decisions import Decision
from misgiving.errors import UsageError

DECISION = Decision(
    predicted_class="mel, or not",
    probability=0.75,
    predicted_loss=-1.5,
    decision="accept",
    reason="w",
    error_probability=0.125,
    expected_loss=None,
    ood_p_value=0.5,
    acceptance_score=3.0,
    ood_score=1.0,
    probabilities={"mel, or not": 0.75, "loss": 0.25},
)
ACCEPTED = DecisionRow('=1+1 a "quoted".png', DECISION)
CHANGES = {"probability": None, "decision": "defer", "acceptance_score": None}
LOST = {"probabilities": {"mel, or not": None, "loss": 0.25}}
BROKEN = DecisionRow("b\nc.png", DECISION.model_copy(update=CHANGES | LOST))
CLASSES = ("mel, or not", "loss")
UNREADABLE = DecisionRow("d.png", unreadable="not an image")


def read_csv(path):
    with path.open(newline="") as file:
        return [{k: v or None for k, v in row.items()} for row in csv.DictReader(file)]


READERS = {
    ".csv": read_csv,
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".parquet": lambda path: parquet.read_table(path).to_pylist(),
}


def written(path, rows, **columns):
    write_table(path, columns_of(CLASSES, **columns), iter(rows))
    return READERS[path.suffix](path)


@pytest.mark.parametrize("suffix", READERS)
def test_every_kind_of_file_says_the_same_and_a_csv_holds_no_formula(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    decisions = [ACCEPTED, BROKEN, UNREADABLE]
    rows = written(path, decisions, has_policy=True, unreadable=True)
    for row, (name, decision, unreadable) in zip(rows, decisions, strict=True):
        escaped = f"'{name}" if suffix == ".csv" and name.startswith("=") else name
        values = dict(decision) if decision else dict.fromkeys(Decision.model_fields)
        shares = values.pop("probabilities") or dict.fromkeys(CLASSES)
        values |= {f"probability_{label}": share for label, share in shares.items()}
        values |= {"path": escaped, "unreadable": unreadable}
        for name, value in values.items():
            number = isinstance(value, float)
            assert (float(row[name]) if number else row[name]) == value
    (row,) = written(path, [ACCEPTED], has_policy=False)
    of_classes = ["probability_mel, or not", "probability_loss"]
    names = ["path", "predicted_class", "probability", "predicted_loss"]
    assert list(row) == names + of_classes


def test_numbers_in_parquet_are_numbers_also_where_all_are_missing(tmp_path):
    path = tmp_path / "t.parquet"
    written(path, [UNREADABLE], has_policy=True)
    schema = parquet.read_schema(path)
    assert str(schema.field("acceptance_score").type) == "double"
    assert str(schema.field("reason").type) == "string"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError):
        check_kind(tmp_path / "table.xlsx")
