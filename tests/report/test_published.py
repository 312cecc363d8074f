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
def test_a_row_of_table_1_agrees_with_itself_and_the_proposed_model_is_never_worse(row):
    cells = list(table_1(row))
    assert tuple(cell.metric for cell in cells) == METRICS
    for cell in cells:
        assert (cell.difference <= 0) if cell.metric in LOWER_IS_BETTER else (cell.difference >= 0)
    rate, error = cells[:2]  # an error is at most that of the threshold at 95 %
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
