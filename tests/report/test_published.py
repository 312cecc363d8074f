import pytest

from misgiving.report.reproduction.claims import LOWER_IS_BETTER
from misgiving.report.reproduction.published import (
    FIGURE_3,
    FIGURE_5,
    METRICS,
    SETS,
    paper_set_of,
    table_1,
)


@pytest.mark.parametrize("row", SETS)
def test_every_row_of_table_1_has_all_five_metrics(row):
    assert tuple(cell.metric for cell in table_1(row)) == METRICS


@pytest.mark.parametrize("row", SETS)
def test_the_papers_own_model_is_never_worse_in_its_table(row):
    for cell in table_1(row):
        gain = -cell.difference if cell.metric in LOWER_IS_BETTER else cell.difference
        assert gain >= 0


@pytest.mark.parametrize("row", SETS)
def test_detection_error_is_at_most_that_of_the_threshold_at_95_percent(row):
    rate, error = list(table_1(row))[:2]
    assert error.vanilla <= 0.5 * 5 + 0.5 * rate.vanilla
    assert error.proposed <= 0.5 * 5 + 0.5 * rate.proposed


@pytest.mark.parametrize(("cell", "points"), [(FIGURE_3, 4.8), (FIGURE_5, 8.96)])
def test_differences_of_the_figures_are_those_worked_out_by_hand(cell, points):
    assert 100 * cell.difference == pytest.approx(points)


@pytest.mark.parametrize(
    ("name", "stands_for", "row"),
    [
        ("nct", "", "nct"),
        ("colon", "nct", "nct"),
        ("b_box_70_image", "", "b_box_70"),
        ("mine", "", ""),
        ("mine", "something else", ""),
    ],
)
def test_a_set_stands_beside_its_own_row_or_that_which_it_stands_for(name, stands_for, row):
    assert paper_set_of(name, stands_for) == row
