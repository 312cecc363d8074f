import re
from dataclasses import replace
from statistics import mean, stdev

import matplotlib
import pytest
from elements import parse
from fabricated import ALWAYS, BLANK, SETTINGS, SOMETIMES, run_of, where
from pages import missing, read, table

from misgiving.reproduction.report.page import render_page, write_report

MINUS = "\N{MINUS SIGN}"
ODIN = "Five metrics on every set"


def test_the_report_and_its_figures_are_written_alike_and_nothing_else(finished, tmp_path):
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings = dict(matplotlib.rcParams)
        report = write_report(finished, tmp_path)
        assert dict(matplotlib.rcParams) == settings
    figures = {f"{name}.{kind}" for name in ALWAYS for kind in ("png", "svg")}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert {path.name for path in before} == {"report.html", *figures}
    write_report(finished, tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    check_page(report.read_text(encoding="utf-8"))


def check_page(html):
    """The page is well-formed and small, loads nothing, and describes its figures."""
    reader = parse(html)
    assert len(html) < 2_000_000
    assert (reader.open, reader.disordered) == ([], [])
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= reader.ids
    assert html.count("<svg ") == len(ALWAYS) - 1
    assert not re.findall(r'href="(?!#)(?!data:)|url\((?!#)', html)
    words = [image["alt"] for image in reader.images] + reader.labels
    assert len(words) == len(ALWAYS)
    assert all(len(text) > 20 for text in words)
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert sorted(set(ids)) == sorted(ids)


def test_text_from_files_is_shown_and_not_executed(results):
    hostile = "<img src=x onerror=alert(1)><script>alert('$title')</script>"
    settings = SETTINGS | {"notes": [hostile], "versions": {hostile: hostile}, "data": hostile}
    rows = [
        row._replace(dataset=hostile, metric=row.metric.replace("BCC", hostile))
        if row.dataset == "boxes"
        else row
        for row in results
    ]
    reader = parse(render_page(run_of(rows, settings=settings), BLANK))
    assert len(reader.texts("script")) == 1
    assert hostile not in reader.texts("script")[0]
    assert not any("onerror" in image for image in reader.images)
    assert reader.texts("li").count(hostile) == 1


def test_a_table_has_means_over_trials_in_percent_and_differences_below(finished, results):
    rows = table(finished, ODIN)
    start = [row[0].text for row in rows].index("boxes")
    values = [row.value for row in where(results, dataset="boxes", detector="odin", model="mse",
                                         metric="aupr_out")]  # fmt: skip
    cell = rows[start + 1][-1]
    assert (cell.text, *cell.small) == (f"{100 * mean(values):.1f}", f"± {100 * stdev(values):.1f}")
    assert [row[-6].text for row in rows[start : start + 6]] == [
        *("vanilla", "mse", "detached", "proposed"),
        *(f"proposed {MINUS} vanilla", f"proposed {MINUS} detached"),
    ]


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ({"model": "mse"}, "Missing in results.csv, experiment ood_detection: mse."),
        ({"experiment": "new_classes"}, "results.csv, experiment new_classes: every model."),
        ({"detector": "odin"}, "Missing in results.csv: ODIN"),
        ({"detector": ""}, "Missing in results.csv: policies"),
        ({}, "histories.csv, experiment generalization: every model"),
    ],
)
def test_a_missing_model_experiment_or_detector_is_named_and_leaves_the_rest(results, lost, words):
    dropped = where(results, **lost) if lost else []
    run = run_of(row for row in results if row not in dropped)
    assert words in missing(run)
    assert len(read(run).tables["Verdicts"]) == 6


def test_a_figure_is_drawn_where_there_is_data_and_unfinished_units_and_leakage_are_told(
    complete, complete_figures
):
    assert complete_figures.keys() == {*ALWAYS, *SOMETIMES}  # others: see the first test
    by_image = replace(complete, settings=complete.settings | {"split": "paper"})
    assert "group may be in the training set. A certified target then" in missing(by_image)
    page = read(complete)
    assert "1 unit is not in these numbers: generalization, trial 2, mse." in missing(complete)
    said = "4.1, trial 0: no group and no identical image is in two sets (1682 images in test)"
    assert said in page.texts("li")
