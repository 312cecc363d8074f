import pytest

from misgiving.evaluation.subgroups import banded

HUNDRED = [str(number) for number in range(100)]


def test_an_age_is_in_one_band():
    ages = ["0", "29.9", "30", "69", "70", "", "nan", "old"]
    bands = ("under 30", "under 30", "30-49", "50-69", "70 or older", "", "", "")
    assert banded("age", ages) == bands


@pytest.mark.parametrize(
    ("numbers", "counts"),
    [
        (
            HUNDRED,
            {"below 25": 25, "25 to below 50": 25, "50 to below 75": 25, "75 or more": 25},
        ),
        (["0.5"] * 60 + HUNDRED[1:41], {"0.5 to below 16": 75, "16 or more": 25}),
    ],
)
def test_a_column_of_many_numbers_becomes_quarters_and_one_of_names_is_no_group(numbers, counts):
    bands = banded("size", numbers)
    assert {band: bands.count(band) for band in bands} == counts
    assert banded("name", [f"patient {number}" for number in numbers]) == ()
