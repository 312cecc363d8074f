import numpy as np
import pandas as pd
import pytest

from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.folders import age_band, metadata_of


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("0", "under 30"),
        ("29.9", "under 30"),
        ("30", "30-49"),
        ("69", "50-69"),
        ("70", "70 or older"),
        ("", ""),
        ("nan", ""),
        ("old", ""),
    ],
)
def test_an_age_is_in_one_band(age, band):
    assert age_band(age) == band


def test_columns_are_renamed_and_missing_ones_left_out():
    found = metadata_of(pd.DataFrame({"sex": ["male", ""]}), {"sex": "sex", "age_approx": "age"})
    assert found == {"sex": ("male", "")}


def test_a_column_of_many_numbers_becomes_quarters():
    numbers = [str(number) for number in range(100)]
    found = metadata_of(pd.DataFrame({"size": numbers}), {"size": "size"})["size"]
    assert {band: found.count(band) for band in found} == {
        "below 25": 25,
        "25 to below 50": 25,
        "50 to below 75": 25,
        "75 or more": 25,
    }


def test_quarters_that_are_equal_are_one_band():
    texts = ["0.5"] * 60 + [str(number) for number in range(1, 41)]
    found = metadata_of(pd.DataFrame({"size": texts}), {"size": "size"})["size"]
    assert {band: found.count(band) for band in found} == {
        "0.5 to below 16": 75,
        "16 or more": 25,
    }


def test_a_column_of_names_is_no_group():
    names = [f"patient {number}" for number in range(30)]
    assert metadata_of(pd.DataFrame({"name": names}), {"name": "name"}) == {}


def test_a_table_keeps_its_other_columns_and_a_selection_its_rows(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    (tmp_path / "t.csv").write_text(
        "path,label,group,scanner\na.png,x,1,old\nb.png,y,2,new\nc.png,x,3,new\n"
    )
    dataset = load_dataset(f"table:{tmp_path / 't.csv'}")
    assert dataset.metadata == {"scanner": ("old", "new", "new")}
    assert dataset.select(np.array([2, 0])).metadata == {"scanner": ("new", "old")}
