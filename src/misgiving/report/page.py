"""The report: one HTML file without external resources, made from a reproduction folder alone."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from misgiving.files import whole_file, write_text
from misgiving.report import wording
from misgiving.report.figures import KINDS, figure_link, inline, render
from misgiving.report.figures.classes import (
    confusion_figure,
    examples_figure,
    new_classes_figure,
    ood_figure,
    sensitivity_figure,
)
from misgiving.report.figures.curves import calibration_figure, learning_figure, risk_figure
from misgiving.report.figures.sweeps import rates_figure
from misgiving.report.findings import BOOTSTRAP
from misgiving.report.findings.claims import (
    ENOUGH_TRIALS,
    LEVEL,
    MODEL,
    Status,
    harms_sentence,
    verdicts,
)
from misgiving.report.findings.collapse import collapse_sentence
from misgiving.report.findings.detectors import (
    chosen_sentence,
    error_detection_sentences,
    estimation_sentence,
    ood_sentence,
    reliability_sentence,
    scaling_sentence,
)
from misgiving.report.findings.sweep import (
    speed_sentence,
    sweep_of,
)
from misgiving.report.findings.target_errors import target_sentences, targets_of
from misgiving.report.inputs import ReportInputs, read_inputs, select
from misgiving.report.published import title
from misgiving.report.rendering import environment
from misgiving.report.views import TUNED, ZERO, claims, detection, models, paper

VIEWS: tuple[Callable[[ReportInputs], Any], ...] = (
    claims.harms_table,
    claims.unjudged_sets,
    claims.verdict_table,
    detection.accuracies,
    detection.chosen_table,
    detection.detector_choices,
    detection.detector_tables,
    detection.odin_choices,
    detection.odin_table,
    detection.ood_rule_table,
    detection.tuning_table,
    detection.unseen_table,
    models.calibration_table,
    models.classification_table,
    models.convergence_table,
    models.diverged,
    models.error_detection_table,
    models.errors_per_trial,
    models.estimation_table,
    models.target_table,
    models.uncalibrated,
    paper.groups_are,
    paper.paper_agreement,
    paper.paper_differences,
    paper.paper_table,
    paper.provenance,
    paper.sets_table,
)
"""The templates have the result of each under its name."""


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
    classes, sweep = inputs.settings.classes, sweep_of(inputs)
    drawn = {
        "figure-2": learning_figure(inputs.histories, monitored=inputs.settings.monitored_set),
        "figure-3": sensitivity_figure(inputs.results, classes=classes, measured=inputs.measured),
        "figure-4": examples_figure(inputs.examples),
        "figure-5": new_classes_figure(inputs.results),
        "table-1": ood_figure(inputs.results, tuned=inputs.tuned),
    }
    if inputs.confusions:
        drawn["confusions"] = confusion_figure(inputs.confusions, classes=classes)
    if sweep and sweep.higher:
        drawn["learning-rates"] = rates_figure(sweep)
    if inputs.risk_coverage:
        results = select(inputs.results, experiment="generalization", dataset=inputs.measured)
        drawn["risk-coverage"] = risk_figure(inputs.risk_coverage, results)
    if inputs.reliability:
        drawn["reliability"] = calibration_figure(inputs.reliability)
    return drawn


def render_page(inputs: ReportInputs, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML; `drawn` as from `draw_figures`."""
    return (
        environment()
        .get_template("report.html")
        .render(
            **{view.__name__: view(inputs) for view in VIEWS},
            **_sentences(inputs),
            settings=inputs.settings,
            sweep=sweep_of(inputs),
            example_sets=[examples.name for examples in inputs.examples],
            drawn=drawn,
            missing=lambda file, experiment: _missing(inputs, file, experiment),
            figure_link=figure_link,
            inline=inline,
            title=title,
            ENOUGH_TRIALS=ENOUGH_TRIALS,
            BOOTSTRAP=BOOTSTRAP,
            LEVEL=LEVEL,
            MODEL=MODEL,
            TUNED=TUNED,
            ZERO=ZERO,
        )
    )


def _sentences(inputs: ReportInputs) -> dict[str, Any]:
    settings, intervals, measured = inputs.settings, inputs.intervals, inputs.measured
    found, targets = verdicts(inputs), targets_of(inputs.results)
    counts = Counter(verdict.status for verdict in found.values())
    return {
        "verdicts": found,
        "harms": harms_sentence(found.values()),
        "collapse": collapse_sentence(inputs.histories, monitored=settings.monitored_set),
        "speed": speed_sentence(sweep_of(inputs)),
        "tally": ", ".join(f"{counts[status]} {status}" for status in Status if counts[status]),
        "run_settings": wording.run_settings(settings, unit=inputs.unit),
        "open_choices": wording.open_choices(settings),
        "leakage": wording.leakage(settings.leakage, measured),
        "remarks": wording.remarks(settings),
        "estimation": estimation_sentence(intervals, measured=measured),
        "error_detection": error_detection_sentences(intervals, measured=measured),
        "chosen": chosen_sentence(intervals, sets=detection.untuned_sets(inputs)),
        "ood_rule": ood_sentence(inputs.results, measured=measured),
        "target_sentences": target_sentences(intervals, targets) if targets else [],
        "reliability": reliability_sentence(inputs.reliability),
        "scaling": scaling_sentence(models.calibration_rows(inputs)),
    }


def _missing(inputs: ReportInputs, file: str, experiment: str) -> str:
    """The paper's models that a file lacks in an experiment; empty where none."""
    rows: Sequence[Any] = inputs.histories if file == "histories.csv" else inputs.results
    present = {row.model for row in rows if row.experiment == experiment}
    absent = [model for model in ("vanilla", "mse", "proposed") if model not in present]
    return ", ".join(absent) if present else "every model"
