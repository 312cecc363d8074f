import pytest

from misgiving.report.inputs import Table, read_inputs, select

WANTED = [
    {"metric": "auroc"},
    {"experiment": "ood_detection", "detector": "odin"},
    {"detector": "odin", "experiment": "ood_detection"},
    {"trial": 1, "metric": "accuracy", "model": "vanilla"},
    {"metric": "no such metric"},
    {},
]


@pytest.mark.parametrize("wanted", WANTED)
def test_an_index_finds_what_a_search_of_all_rows_finds(finished, wanted):
    rows = read_inputs(finished).results
    assert isinstance(rows, Table)
    expected = [
        row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())
    ]
    assert select(rows, **wanted) == expected
    assert select(list(rows), **wanted) == expected


def test_what_was_selected_may_be_changed(finished):
    rows = read_inputs(finished).results
    select(rows, metric="auroc").clear()
    assert select(rows, metric="auroc")
