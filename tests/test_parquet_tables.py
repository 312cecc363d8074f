"""Tables that become far more than their files are refused before they are in memory."""

import os
import tracemalloc

import numpy as np
import pandas
import pyarrow as pa
import pytest
from pyarrow import parquet

from misgiving.errors import DataError
from misgiving.parquet_tables import MOST_TEXT, read_parquet
from misgiving.predictions.record import Predictions


def written(path, columns, **options):
    parquet.write_table(pa.table(columns), path, **options)
    return path


def test_a_long_text_that_a_dictionary_holds_once_is_counted_for_each_row(tmp_path):
    text, rows = "x" * 2**20, 2000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([text]))
    path = written(tmp_path / "a.parquet", {"id": column}, compression="zstd")
    assert path.stat().st_size < 100_000 < MOST_TEXT < rows * len(text)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"a.parquet: its texts would take 2.0 GiB, more than 1"):
        read_parquet(path)
    assert tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() < 100 * 2**20
    tracemalloc.stop()


def test_numbers_are_counted_by_the_metadata(tmp_path, monkeypatch):
    path = written(tmp_path / "a.parquet", {"logit": pa.array([0.5] * 1_000_000)})
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2000}.get)
    with pytest.raises(DataError, match="more than half of the memory"):
        read_parquet(path)


def test_cells_that_become_texts_are_counted_as_these(tmp_path, monkeypatch):
    labels = np.zeros(1_000_000, dtype=np.int8)
    wide = pa.array([b"x" * 1000] * 200_000, pa.binary(1000)).dictionary_encode()
    parquets = {"label": pa.array(labels)}, {"id": wide}
    paths = [written(tmp_path / f"{at}.parquet", each) for at, each in enumerate(parquets)]
    np.savez(tmp_path / "a.npz", label=labels)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 20_000}.get)
    for path in (*paths, tmp_path / "a.npz"):
        assert path.stat().st_size < 2_000_000
        with pytest.raises(DataError, match="more than half of the memory"):
            Predictions.read(path)


def test_a_table_of_predictions_with_lists_of_texts_is_refused(tmp_path):
    path = written(tmp_path / "a.parquet", {"id": pa.array([["a"] * 1000] * 100)})
    with pytest.raises(DataError, match=r"id\..* has several texts for each row; give one"):
        read_parquet(path)


def test_a_table_is_the_one_that_another_library_reads(tmp_path):
    frame = pandas.DataFrame(
        {
            "id": [f"case {row}" for row in range(1000)],
            "site": ["A", None] * 500,
            "number": range(1000),
            "share": [row / 7 for row in range(1000)],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    read = read_parquet(tmp_path / "a.parquet").to_pandas()
    pandas.testing.assert_frame_equal(read, pandas.read_parquet(tmp_path / "a.parquet"))
    chosen = read_parquet(tmp_path / "a.parquet", ["share", "id"])
    assert {*chosen.column_names} == {"share", "id"}


def test_a_million_honest_rows_are_read(tmp_path):
    rows = 1_000_000
    paths = pa.array(
        [f"/data/hospital/2026/patient_{row // 5:07d}/image_{row:07d}.jpg" for row in range(rows)]
    )
    path = written(tmp_path / "a.parquet", {"path": paths, "label": pa.array(["NV"] * rows)})
    assert read_parquet(path).num_rows == rows


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a.csv: .*not an ordinary file"):
        Predictions.read(tmp_path / "a.csv")


def test_an_archive_of_arrays_is_counted_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", logits=np.zeros((500_000, 2)))
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2000}.get)
    with pytest.raises(DataError, match=r"a.npz: would take 0.0 GiB"):
        Predictions.read(tmp_path / "a.npz")
