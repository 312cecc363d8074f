"""The report: one HTML file without external resources, made from a reproduction folder alone."""

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from matplotlib.figure import Figure

from misgiving.files import whole_file, write_text
from misgiving.report import figures
from misgiving.report.page import sections
from misgiving.report.page.detection import detection
from misgiving.report.page.estimation import estimation
from misgiving.report.page.material import Material, read_material


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
    """The report's figures under the names of their files."""
    return {
        "figure-2": figures.learning_figure(material.histories),
        "figure-3": figures.sensitivity_figure(material.results, classes=material.classes),
        "figure-4": figures.examples_figure(material.examples),
        "figure-5": figures.new_classes_figure(material.results),
    }


def render_page(material: Material, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML; `drawn` as from `draw_figures`."""
    template = files("misgiving.report").joinpath("page.html").read_text(encoding="utf-8")
    settings = material.settings
    return Template(template).substitute(
        title=escape(str(settings.get("title", "Loss estimators: a reproduction"))),
        lead=escape(sections.lead(settings)),
        summary=sections.summary(material),
        settings=sections.settings(settings),
        learning=sections.learning(material, drawn["figure-2"]),
        sensitivity=sections.sensitivity(material, drawn["figure-3"]),
        detection=detection(material),
        examples=sections.examples(material, drawn["figure-4"]),
        new_classes=sections.new_classes(material, drawn["figure-5"]),
        estimation=estimation(material),
        provenance=sections.provenance(material),
    )
