"""The pages that commands write and axe: no violation of WCAG 2.1 AA, in light and in dark."""

from dataclasses import replace

import numpy as np
import pytest
from browsing import needs_chromium, violations
from fabricated import BLANK, EMPTY, SOMETIMES
from PIL import Image

from misgiving import Deferral, Predictions
from misgiving.deferral.decision_tables import DecisionRow
from misgiving.evaluation.evaluate import evaluate
from misgiving.report.contact_sheet import contact_sheet
from misgiving.report.evaluation import write_report
from misgiving.report.reproduction.page import render_page

pytestmark = needs_chromium

MODELS = ("vanilla", "proposed")  # as few as show every part of the page, because axe takes long
UNFOLD = "() => document.querySelectorAll('details').forEach((fold) => { fold.open = true; })"


@pytest.fixture
def violations_in(browser):
    """Violations that axe finds in a file, with everything unfolded."""

    def look(path):
        page = browser.new_page()
        page.goto(path.as_uri())
        page.evaluate(UNFOLD)
        violated = violations(page)
        page.close()
        return violated

    return look


def predictions(seed, confidence):
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=600)
    logits = random.normal(size=(600, 3)) + confidence * np.eye(3)[labels]
    columns = {"site": 9, "device": 10, "ward": 11}  # so many groups that some are folded
    metadata = {
        name: [f"no. {row % groups}" for row in range(600)] for name, groups in columns.items()
    }
    ids = [f"{seed}-{row}" for row in range(600)]
    classes = ("cat", "dog", "owl")
    return Predictions.of(
        {"logits": logits, "label": labels, "classes": classes, "id": ids, **metadata}
    )


def test_the_report_of_an_evaluation_violates_nothing(violations_in, tmp_path):
    deferral = Deferral(max_error=0.1, max_ood_false_alarms=0.05).fit(predictions(0, 3))
    evaluation = evaluate(predictions(1, 2), deferral, ood={"scans": predictions(2, 0)})
    picture = np.full((30, 40, 3), 90, np.uint8)
    path = write_report(
        evaluation,
        tmp_path / "report.html",
        title="pets",
        pictures=lambda identity: picture if "3" in identity else None,
    )
    text = path.read_text(encoding="utf-8")
    for part in ("certified", "groups", "errors", "ood", "images"):
        assert f'<section id="{part}">' in text
    assert "<details>" in text
    assert "The file cannot be read." in text
    assert violations_in(path) == []


def test_the_contact_sheet_violates_nothing(violations_in, tmp_path):
    seen = tmp_path / "seen.png"
    Image.new("RGB", (40, 30), (90, 120, 200)).save(seen)
    rows = [
        DecisionRow(str(path), "cat", 0.6, decision, "less likely right than the limit")
        for path in (seen, tmp_path / "gone.png")
        for decision in ("defer", "ood")
    ]
    page = tmp_path / "sheet.html"
    page.write_text(contact_sheet(rows), encoding="utf-8")
    assert violations_in(page) == []


def test_the_report_of_a_reproduction_violates_nothing(complete, violations_in, tmp_path):
    tables = ("results", "intervals", "histories", "confusions", "reliability", "risk_coverage")
    frames = {name: getattr(complete, name) for name in tables}
    small = {name: rows[rows["model"].isin(MODELS)] for name, rows in frames.items()}
    page = tmp_path / "report.html"
    blank = BLANK | dict.fromkeys(SOMETIMES, EMPTY)
    page.write_text(render_page(replace(complete, **small), blank), encoding="utf-8")
    assert violations_in(page) == []
