"""The report: one HTML file without external resources, made from a reproduction folder alone."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from misgiving.files import whole_file, write_text
from misgiving.report import environment, wording
from misgiving.report.figures import KINDS, Kind, render
from misgiving.report.figures.classes import (
    confusion_figure,
    examples_figure,
    new_classes_figure,
    sensitivity_figure,
)
from misgiving.report.figures.curves import (
    learning_figure,
    rates_figure,
    reliability_figure,
    risk_figure,
)
from misgiving.report.findings import Finding, Status
from misgiving.report.findings.claims import claims
from misgiving.report.findings.detectors import (
    chosen_sentence,
    error_detection_sentences,
    estimation_sentence,
    ood_sentence,
    reliability_sentence,
    scaling_sentence,
)
from misgiving.report.findings.target_errors import target_sentences, targets_of
from misgiving.report.inputs import ReportInputs, read_inputs
from misgiving.report.published import title
from misgiving.report.views import TUNED, ZERO, detection, models, paper

MEDIA = {"svg": "image/svg+xml", "jpg": "image/jpeg"}


def write_report(folder: Path) -> Path:
    """Write `report.html`, whose path is returned, and `figures/`; no model is needed."""
    inputs = read_inputs(folder)
    drawn = draw_figures(inputs)
    for name, figure in drawn.items():
        for kind in KINDS:
            with whole_file(folder / "figures" / f"{name}.{kind}") as partial:
                partial.write_bytes(render(figure, kind))
    write_text(folder / "report.html", render_page(inputs, drawn))
    return folder / "report.html"


def draw_figures(inputs: ReportInputs) -> dict[str, Figure]:
    """The report's figures under the names of their files; some only with data for them."""
    classes, sweep = inputs.settings.classes, inputs.sweep
    drawn = {
        "figure-2": learning_figure(inputs.histories, monitored=inputs.settings.monitored_set),
        "figure-3": sensitivity_figure(inputs.results, classes=classes, measured=inputs.measured),
        "figure-4": examples_figure(inputs.examples),
        "figure-5": new_classes_figure(inputs.results),
    }
    if inputs.confusions:
        drawn["confusions"] = confusion_figure(inputs.confusions, classes=classes)
    if sweep and sweep.higher:
        drawn["learning-rates"] = rates_figure(sweep)
    if inputs.risk_coverage:
        drawn["risk-coverage"] = risk_figure(inputs.risk_coverage)
    if inputs.reliability:
        drawn["reliability"] = reliability_figure(inputs.reliability)
    return drawn


def render_page(inputs: ReportInputs, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML; `drawn` as from `draw_figures`."""
    found = claims(inputs)
    return (
        environment()
        .get_template("report.html")
        .render(
            **_overview(inputs, found),
            **_model_sections(inputs),
            **_detection_sections(inputs),
            **_reliance_section(inputs),
            drawn=drawn,
            missing=lambda file, experiment: _missing(inputs, file, experiment),
            figure_link=figure_link,
            TUNED=TUNED,
            ZERO=ZERO,
        )
    )


def figure_link(figure: Figure, kind: Kind) -> str:
    """A figure as a link that holds it."""
    return f"data:{MEDIA[kind]};base64,{base64.b64encode(render(figure, kind)).decode('ascii')}"


def _overview(inputs: ReportInputs, found: Mapping[str, Finding]) -> dict[str, Any]:
    settings = inputs.settings
    counts = Counter(finding.status for finding in found.values())
    return {
        "settings": settings,
        "findings": found,
        "tally": ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]),
        "run_settings": wording.run_settings(settings),
        "open_choices": wording.open_choices(settings),
        "leakage": [wording.leakage(one, inputs.measured) for one in settings.leakage],
        "remarks": wording.remarks(settings),
        "differences": paper.paper_differences(inputs) if settings.compares_with_paper else [],
        "paper_table": paper.paper_table(inputs) if settings.compares_with_paper else None,
        "sets_table": paper.sets_table(inputs),
        "provenance": paper.provenance(inputs),
        "example_sets": [examples.name for examples in inputs.examples],
        "title": title,
    }


def _model_sections(inputs: ReportInputs) -> dict[str, Any]:
    measured, sweep = inputs.measured, inputs.sweep
    return {
        "sweep": sweep,
        "classification_table": models.classification_table(inputs),
        "convergence_table": models.convergence_table(sweep) if sweep else None,
        "estimation": estimation_sentence(inputs.intervals, measured=measured),
        "estimation_table": models.estimation_table(inputs),
        "error_detection": error_detection_sentences(inputs.intervals, measured=measured),
        "error_detection_table": models.error_detection_table(inputs),
        "errors_per_trial": models.errors_per_trial(inputs),
    }


def _detection_sections(inputs: ReportInputs) -> dict[str, Any]:
    sets = detection.untuned_sets(inputs)
    return {
        "odin_table": detection.odin_table(inputs),
        "accuracies": detection.accuracies(inputs),
        "odin_choices": detection.odin_choices(inputs),
        "tuning_table": detection.tuning_table(inputs),
        "chosen": chosen_sentence(inputs.intervals, sets=sets),
        "detector_choices": detection.detector_choices(inputs),
        "chosen_table": detection.chosen_table(inputs),
        "detector_tables": detection.detector_tables(inputs),
        "unseen_table": detection.unseen_table(inputs),
        "ood_rule": ood_sentence(inputs.results, measured=inputs.measured),
        "ood_rule_table": detection.ood_rule_table(inputs),
    }


def _reliance_section(inputs: ReportInputs) -> dict[str, Any]:
    targets = targets_of(inputs.results)
    return {
        "target_sentences": target_sentences(inputs.intervals, targets) if targets else [],
        "target_table": models.target_table(inputs, targets) if targets else None,
        "uncalibrated": models.uncalibrated(inputs) if targets else [],
        "reliability": reliability_sentence(inputs.reliability),
        "scaling": scaling_sentence(models.calibration_rows(inputs)),
        "calibration_table": models.calibration_table(inputs),
    }


def _missing(inputs: ReportInputs, file: str, experiment: str) -> str:
    """The paper's models that a file lacks in an experiment; empty where none."""
    rows: Sequence[Any] = inputs.histories if file == "histories.csv" else inputs.results
    present = {row.model for row in rows if row.experiment == experiment}
    absent = [model for model in ("vanilla", "mse", "proposed") if model not in present]
    return ", ".join(absent) if present else "every model"
