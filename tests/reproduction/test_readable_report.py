"""The report of a reproduction, as a reader meets it in a browser."""

import re
from dataclasses import replace

import pytest
from browsing import UNFOLD, needs_chromium
from fabricated import BLANK, EMPTY, SOMETIMES

from misgiving.reproduction.report.page import render_page
from misgiving.reproduction.report.run import models_of

pytestmark = needs_chromium
A4 = 703  # pixels between the margins
ROWS = """table => [...table.tBodies].map(body => [...body.rows].map(
  row => [...row.cells].map(cell => cell.firstChild?.data ?? "")))"""
PRINTED = "() => dispatchEvent(new Event('beforeprint'))"


@pytest.fixture(scope="module")
def address(complete, complete_figures, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(complete, complete_figures), encoding="utf-8")
    return path.as_uri()


def number(text):
    match = re.match(r"[+(]*(-?[\d.]+)", text.replace("\N{MINUS SIGN}", "-"))
    return float(match[1]) if match else None


def in_order(values, sign):
    """True if numbers rise (or fall), and what is no number comes after them."""
    numbers = [value for value in values if value is not None]
    return values[: len(numbers)] == sorted(numbers, key=lambda value: sign * value)


def groups_of(bodies):
    """The rows of each group under its name, which only its first row has."""
    return {first[0]: sorted([first[1:], *rest]) for first, *rest in bodies}


def test_a_click_on_a_heading_sorts_within_and_between_the_groups_of_a_table(visit, address):
    page = visit(address)
    page.evaluate(UNFOLD)
    table = page.locator("#figure-5 table")
    before = table.evaluate(ROWS)
    names = [heading.inner_text() for heading in table.locator("thead th").all()]
    place = names.index("vanilla") - len(names)  # a group's name stands in its first row alone
    heading = table.get_by_role("columnheader", name="vanilla", exact=True)
    for direction, sign in (("ascending", 1), ("descending", -1)):
        heading.get_by_role("button").click()
        assert heading.get_attribute("aria-sort") == direction
        after = table.evaluate(ROWS)
        groups = [[number(row[place]) for row in body] for body in after]
        assert all(in_order(values, sign) for values in groups)
        assert in_order([values[0] for values in groups], sign)
        assert groups_of(after) == groups_of(before)


def test_the_pointer_shows_the_numbers_of_the_nearest_mark(visit, address, complete):
    page, run = visit(address), complete
    where = {"experiment": "generalization", "dataset": "test", "detector": ""}
    rows = run.rows(**where, model="vanilla", metric="balanced_accuracy")
    values = [100 * value for value in rows["value"]]
    drawing = page.locator("#figure-3 > figure svg")
    drawing.scroll_into_view_if_needed()
    marks = drawing.locator(".value").all()
    box = marks[-len(models_of(run.rows(**where)))].bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 + 5, box["y"] + box["height"] / 2 - 4)
    said = page.locator("#tip").inner_text()
    assert said.startswith(f"balanced accuracy, vanilla: {sum(values) / len(values):.1f}")
    assert ", ".join(f"{value:.1f}" for value in values) in said
    page.mouse.move(5, 5)
    assert not page.locator("#tip").is_visible()


def test_nothing_is_clipped_on_a_phone_where_verdicts_are_below_each_other(visit, address):
    page = visit(address, 390)
    cells = page.locator("table").first.locator("tbody tr").first.locator("th, td").all()
    assert {cell.bounding_box()["x"] for cell in cells} == {cells[0].bounding_box()["x"]}
    page.evaluate(UNFOLD)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for box in page.locator(".scroll, nav").all():
        width, inner, overflow = box.evaluate(
            "it => [it.clientWidth, it.scrollWidth, getComputedStyle(it).overflowX]"
        )
        assert width <= 390
        assert inner <= width or overflow == "auto"
    assert page.locator("table:not(.scroll > table), svg:not(.scroll > svg)").count() == 0


def test_folds_are_open_in_print_and_the_page_is_light(visit, address):
    page = visit(address, A4, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate(PRINTED)
    assert page.locator("details:not([open])").count() == 0
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") == A4


def test_the_report_of_a_reproduction_violates_nothing(complete, violations_in):
    tables = ("results", "intervals", "histories", "confusions", "reliability", "risk_coverage")
    frames = {name: getattr(complete, name) for name in tables}
    models = ["vanilla", "proposed"]  # as few as show every part, because axe takes long
    small = {name: rows[rows["model"].isin(models)] for name, rows in frames.items()}
    blank = BLANK | dict.fromkeys(SOMETIMES, EMPTY)
    assert violations_in(render_page(replace(complete, **small), blank)) == []
