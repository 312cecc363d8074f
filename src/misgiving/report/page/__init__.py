"""The report: one HTML file without external resources, made from a reproduction folder alone."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from misgiving.files import whole_file, write_text
from misgiving.report import figures
from misgiving.report.inputs import Material, read_material
from misgiving.report.page import sections
from misgiving.report.page.classification import classification
from misgiving.report.page.convergence import convergence
from misgiving.report.page.detection import detection
from misgiving.report.page.estimation import estimation
from misgiving.report.page.failures import failures
from misgiving.report.page.paper_comparison import beside
from misgiving.report.page.reliance import reliance

BESIDE_LINK = '<a href="#beside">Beside the paper</a>'


def write_report(folder: Path) -> Path:
    """Write `report.html` and `figures/` from the files of a reproduction; no model is needed.

    Args:
        folder: holds at least `results.csv`; what else is missing, the report says.

    Returns:
        The path of the report.
    """
    material = read_material(folder)
    drawn = draw_figures(material)
    for name, figure in drawn.items():
        for kind in figures.KINDS:
            with whole_file(folder / "figures" / f"{name}.{kind}") as partial:
                partial.write_bytes(figures.render(figure, kind))
    write_text(folder / "report.html", render_page(material, drawn))
    return folder / "report.html"


def draw_figures(material: Material) -> dict[str, Figure]:
    """The report's figures under the names of their files; some only with data for them."""
    results, classes = material.results, material.classes
    part = material.measured
    drawn = {
        "figure-2": figures.learning_figure(material.histories, part=material.watched),
        "figure-3": figures.sensitivity_figure(results, classes=classes, part=part),
        "figure-4": figures.examples_figure(material.examples),
        "figure-5": figures.new_classes_figure(results),
    }
    if material.confusions:
        drawn["confusions"] = figures.confusion_figure(material.confusions, classes=classes)
    if (sweep := material.sweep) and sweep.higher:
        drawn["learning-rates"] = figures.rates_figure(sweep)
    if material.risk_coverage:
        drawn["risk-coverage"] = figures.risk_figure(material.risk_coverage)
    if material.reliability:
        drawn["reliability"] = figures.reliability_figure(material.reliability)
    return drawn


def render_page(material: Material, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML; `drawn` as from `draw_figures`."""
    template = files("misgiving.report").joinpath("page.html").read_text(encoding="utf-8")
    settings = material.settings
    return Template(template).substitute(
        title=escape(str(settings.get("title", "Loss estimators: a reproduction"))),
        lead=escape(sections.lead(settings)),
        summary=sections.summary(material),
        unfinished=sections.unfinished(settings),
        beside=beside(material) if material.compares_with_paper else "",
        beside_link=BESIDE_LINK if material.compares_with_paper else "",
        settings=sections.settings(settings),
        learning=sections.learning(material, drawn["figure-2"]),
        sensitivity=classification(material, drawn),
        convergence=convergence(material, drawn),
        detection=detection(material),
        examples=sections.examples(material, drawn["figure-4"]),
        new_classes=sections.new_classes(material, drawn["figure-5"]),
        estimation=estimation(material),
        failures=failures(material, drawn),
        reliance=reliance(material, drawn),
        provenance=sections.provenance(material),
    )
