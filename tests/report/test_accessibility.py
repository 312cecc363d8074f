"""The pages that commands write and axe: no violation of WCAG 2.1 AA, in light and in dark."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from browsing import needs_chromium, violations
from fabricated import BLANK
from PIL import Image

from misgiving.deferral.decision_tables import DecisionRow
from misgiving.report.contact_sheet import contact_sheet
from misgiving.report.reproduction.page import render_page

pytestmark = needs_chromium

CLASSES = ("cat", "dog", "owl")
MODELS = ("vanilla", "proposed")  # as few as show every part of the page, because axe takes long
UNFOLD = "() => document.querySelectorAll('details').forEach((one) => { one.open = true; })"


@pytest.fixture
def found_in(browser):
    """Violations that axe finds in a file, with everything unfolded."""

    def look(path):
        page = browser.new_page()
        page.goto(path.as_uri())
        page.evaluate(UNFOLD)
        found = violations(page)
        page.close()
        return found

    return look


def write_predictions(path, folder, *, confidence, seed):
    """A table of predictions with images, one of which is gone, and metadata."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=600)
    logits = random.normal(size=(600, 3)) + confidence * np.eye(3)[labels]
    names = [f"{folder / str(number % 5)}.png" for number in range(600)]
    for name in names[:4]:
        Image.new("RGB", (40, 30), (90, 120, 200)).save(name)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        logit_names = [f"logit_{name}" for name in CLASSES]
        table.writerow(["id", "label", "site", "device", "ward", "path", *logit_names])
        for number, (label, row) in enumerate(zip(labels, logits, strict=True)):
            groups = [f"no. {number % of}" for of in (9, 10, 11)]  # so many that some are folded
            found = [f"{path.stem}-{number}", CLASSES[label], *groups, names[number]]
            table.writerow([*found, *row])


def test_the_report_of_an_evaluation_violates_nothing(misgiving, found_in, tmp_path):
    tables = [tmp_path / name for name in ("fit.csv", "test.csv", "scans.csv")]
    for seed, (path, confidence) in enumerate(zip(tables, (3, 2, 0), strict=True)):
        write_predictions(path, tmp_path, confidence=confidence, seed=seed)
    fit, test, scans = tables
    policy, out = tmp_path / "policy", tmp_path / "out"
    limits = ["--max-error", 0.1, "--max-ood-false-alarms", 0.05]
    assert misgiving("calibrate", fit, *limits, "--out", policy)[0] == 0
    code, _, error = misgiving(
        "evaluate", test, "--policy", policy, "--ood", f"scans={scans}", "--out", out
    )
    assert code == 0, error
    text = (out / "report.html").read_text(encoding="utf-8")
    for part in ("certified", "groups", "errors", "ood", "images"):
        assert f'<section id="{part}">' in text
    assert "<details>" in text
    assert "The file cannot be read." in text
    assert found_in(out / "report.html") == []


def test_the_contact_sheet_violates_nothing(found_in, tmp_path):
    seen = tmp_path / "seen.png"
    Image.new("RGB", (40, 30), (90, 120, 200)).save(seen)
    rows = [
        DecisionRow(str(path), "cat", 0.6, decision, "less likely right than the limit")
        for path in (seen, tmp_path / "gone.png")
        for decision in ("defer", "ood")
    ]
    page = tmp_path / "sheet.html"
    page.write_text(contact_sheet(rows), encoding="utf-8")
    assert found_in(page) == []


def test_the_report_of_a_reproduction_violates_nothing(with_policies, found_in, tmp_path):
    tables = ("results", "intervals", "histories", "reliability", "risk_coverage")
    frames = {name: getattr(with_policies, name) for name in tables}
    small = {name: rows[rows["model"].isin(MODELS)] for name, rows in frames.items()}
    blank = dict.fromkeys((*BLANK, "risk-coverage", "reliability"), BLANK["figure-2"])
    page = tmp_path / "report.html"
    page.write_text(render_page(replace(with_policies, **small), blank), encoding="utf-8")
    assert found_in(page) == []
