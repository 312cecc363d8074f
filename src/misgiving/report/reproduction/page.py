"""The report of a reproduction: one HTML file without external resources."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from misgiving.evaluation.measures import CHOSEN
from misgiving.files import whole_file, write_text
from misgiving.report import names
from misgiving.report.figures import KINDS, figure_link, inline, render
from misgiving.report.rendering import environment
from misgiving.report.reproduction import claims, figures, findings, published
from misgiving.report.reproduction.run import (
    Quantity,
    Run,
    distinct,
    in_order,
    main_model,
    models_of,
    select,
)


def write_report(run: Run, folder: Path) -> Path:
    """Write `report.html`, whose path is returned, and `figures/`; no model is needed."""
    drawn = draw_figures(run)
    for name, figure in drawn.items():
        for kind in KINDS:
            with whole_file(folder / "figures" / f"{name}.{kind}") as partial:
                partial.write_bytes(render(figure, kind))
    write_text(folder / "report.html", render_page(run, drawn))
    return folder / "report.html"


def draw_figures(run: Run) -> dict[str, Figure]:
    """The report's figures under the names of their files; some only with data for them."""
    classes, monitored = run.settings["classes"], run.settings["monitored_set"]
    measured = run.rows(experiment="generalization", dataset=run.measured)
    examples = [
        (published.title(name), caption(run, name), run.pictures[name]) for name in run.example_sets
    ]
    drawn = {
        "figure-2": figures.learning_figure(run.histories, monitored=monitored),
        "figure-3": figures.sensitivity_figure(select(measured, detector=""), classes=classes),
        "figure-4": figures.examples_figure(examples),
        "figure-5": figures.new_classes_figure(run.results),
        "table-1": figures.ood_figure(run.results, tuning_set=run.tuning_set),
    }
    if len(run.confusions):
        drawn["confusions"] = figures.confusion_figure(run.confusions, classes=classes)
    convergence = findings.convergence_of(run)
    if convergence and len(convergence.rates) > 1:
        drawn["learning-rates"] = figures.rates_figure(convergence, monitored=monitored)
    if len(run.risk_coverage):
        drawn["risk-coverage"] = figures.risk_figure(run.risk_coverage, measured)
    if len(run.reliability):
        drawn["reliability"] = figures.calibration_figure(run.reliability)
    return drawn


def caption(run: Run, dataset: str) -> str:
    """The caption of the examples of a set."""
    facts = run.datasets[dataset]
    paper_set = published.title(run.paper_set(dataset))
    stands = f"for {paper_set}: " if run.stands_in(dataset) else ""
    return f"{stands}{facts['contents']}; {names.count(facts['images'], 'images')}"


def render_page(run: Run, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML; `drawn` as from `draw_figures`."""
    page = environment().get_template("reproduction/page.html")
    functions = (Quantity, distinct, figure_link, in_order, inline, main_model, models_of, select)
    return page.render(
        run=run,
        settings=run.settings,
        verdicts=claims.verdicts(run),
        drawn=drawn,
        CHOSEN=CHOSEN,
        claims=claims,
        findings=findings,
        names=names,
        published=published,
        **{function.__name__: function for function in functions},
    )
