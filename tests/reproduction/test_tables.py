import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from misgiving.errors import DataError
from misgiving.reproduction.report.run import read_run
from misgiving.reproduction.tables import SCHEMAS, TABLES, read_table, table_of, write_table

FILES = [f"{name}.csv" for name in TABLES]
VALUES = {"str": "=1+1", "int64": 3, "float64": 0.1 + 0.2, "bool": True}


def row_of(schema, **changes):
    return tuple((VALUES | changes)[kind] for kind in SCHEMAS[schema].values())


@pytest.mark.parametrize("name", FILES)
def test_a_table_is_read_as_it_was_written(tmp_path, name):
    rows = [row_of(name), row_of(name, str="", float64=1e-17, bool=False), row_of(name, str="NA")]
    if name == "intervals.csv":
        rows.append(row_of(name, float64=None))
    frame = table_of(rows, name)
    write_table(tmp_path / name, frame)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), frame)


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        write_table(tmp_path / name, table_of([row_of(name)], name))
    for name in ("settings", "datasets"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"unseen/BKL": {}}))
    examples = tmp_path / "examples" / "unseen-BKL"
    examples.mkdir(parents=True)
    for number in range(11):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(examples / f"{number}.png")
    return tmp_path


def test_examples_are_read_in_the_order_of_their_numbers(folder):
    pictures = read_run(folder).pictures["unseen/BKL"]
    assert [int(np.asarray(picture)[0, 0, 0]) for picture in pictures] == list(range(11))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.csv", None),
        ("results.csv", "experiment,trial\n"),
        ("intervals.csv", ",".join(SCHEMAS["intervals.csv"]) + "\n" + 14 * "many,"),
        ("settings.json", "["),
        ("examples/unseen-BKL/0.png", "["),
    ],
)
def test_a_file_of_a_run_that_cannot_be_read_is_refused_by_name(folder, name, text):
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_run(folder)
