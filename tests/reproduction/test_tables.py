"""The tables of a reproduction: written as they are read, and checked where they are read."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from misgiving.errors import DataError
from misgiving.reproduction.tables import SCHEMAS, read_run, read_table, table_of, write_table

TABLES = (
    *("results.csv", "intervals.csv", "histories.csv"),
    *("confusions.csv", "reliability.csv", "risk_coverage.csv"),
)
VALUES = {"str": "=1+1", "int64": 3, "float64": 0.1 + 0.2, "bool": True}


def row_of(schema, **changes):
    return tuple((VALUES | changes)[kind] for kind in SCHEMAS[schema].values())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_it_was_written(tmp_path, name):
    rows = [row_of(name), row_of(name, str="", float64=1e-17, bool=False), row_of(name, str="NA")]
    if name == "intervals.csv":
        rows.append(row_of(name, float64=None))
    frame = table_of(rows, name)
    write_table(tmp_path / name, frame)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), frame)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "No columns"), ("experiment,trial\n", "metric"), (None, "No such file")],
)
def test_a_table_that_cannot_be_read_is_refused_by_name_and_with_a_remedy(tmp_path, text, reason):
    path = tmp_path / "results.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=rf"results\.csv.*{reason}.*run"):
        read_table(path)


def test_a_cell_of_another_type_is_refused(tmp_path):
    path = tmp_path / "results.csv"
    write_table(path, table_of([row_of("results.csv")], "results.csv"))
    path.write_text(path.read_text().replace("0.30000000000000004", "many"))
    with pytest.raises(DataError, match=r"results\.csv.*many"):
        read_table(path)


@pytest.fixture
def folder(tmp_path):
    for name in TABLES:
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


@pytest.mark.parametrize("name", [*TABLES, "settings.json", "datasets.json"])
def test_a_missing_file_of_a_run_is_refused_by_name(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        read_run(folder)


@pytest.mark.parametrize("name", ["settings.json", "datasets.json", "examples/unseen-BKL/0.png"])
def test_a_damaged_file_of_a_run_is_refused_by_name(folder, name):
    (folder / name).write_text("[")
    with pytest.raises(DataError, match=rf"{name}.*run"):
        read_run(folder)


def test_a_run_without_results_is_refused(folder):
    write_table(folder / "results.csv", table_of([], "results.csv"))
    with pytest.raises(DataError, match="no results"):
        read_run(folder)
