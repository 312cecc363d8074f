"""The report of a reproduction: one HTML file without external resources."""

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from misgiving.deferral.sentences import count
from misgiving.files import whole_file, write_text
from misgiving.report.figures import Kind, figure_link, render
from misgiving.report.rendering import environment
from misgiving.reproduction import config, published
from misgiving.reproduction.report import claims, figures, findings, names
from misgiving.reproduction.report.run import (
    Run,
    in_order,
    main_model,
    models_of,
    select,
)

PROLOG = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)


def write_report(run: Run, folder: Path) -> Path:
    """Write `report.html`, whose path is returned, and `figures/`; no model is needed."""
    drawn = draw_figures(run)
    kinds: tuple[Kind, ...] = ("png", "svg")
    for (name, figure), kind in product(drawn.items(), kinds):
        with whole_file(folder / "figures" / f"{name}.{kind}") as partial:
            partial.write_bytes(render(figure, kind))
    write_text(folder / "report.html", render_page(run, drawn))
    return folder / "report.html"


def draw_figures(run: Run) -> dict[str, Figure]:
    """The report's figures under the names of their files; some only with data for them."""
    settings, classes = run.settings, run.settings["classes"]
    monitored, tuned_on = settings["tuning_set"], settings["odin"]["tuning_set"]
    measured = run.rows(experiment="generalization", dataset=settings["measured_set"])
    examples = []
    for name in run.example_sets:
        facts, paper_set = run.datasets[name], published.title(run.paper_set(name))
        stands = f"for {paper_set}: " if run.stands_in(name) else ""
        caption = f"{stands}{facts['contents']}; {count(facts['images'], 'images')}"
        examples.append((published.title(name), caption, run.pictures[name]))
    drawn = {
        "figure-2": figures.learning_figure(run.histories, monitored=monitored),
        "figure-3": figures.sensitivity_figure(select(measured, detector=""), classes=classes),
        "figure-4": figures.examples_figure(examples),
        "figure-5": figures.new_classes_figure(run.results),
        "table-1": figures.ood_figure(run.results, tuning_set=tuned_on),
    }
    if len(run.confusions):
        drawn["confusions"] = figures.confusion_figure(run.confusions, classes=classes)
    if len(run.risk_coverage):
        drawn["risk-coverage"] = figures.risk_figure(run.risk_coverage, measured)
    if len(run.reliability):
        drawn["reliability"] = figures.calibration_figure(run.reliability)
    return drawn


def render_page(run: Run, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML; `drawn` as from `draw_figures`."""
    page = environment("misgiving.reproduction.report").get_template("page.html")
    functions = (figure_link, in_order, inline, main_model, models_of, select)
    return page.render(
        run=run,
        settings=run.settings,
        verdicts=claims.verdicts(run),
        drawn=drawn,
        claims=claims,
        config=config,
        findings=findings,
        names=names,
        published=published,
        **{function.__name__: function for function in functions},
    )


def inline(figure: Figure, name: str, alt: str) -> Markup:
    """A figure as an SVG element of a page, which shows the words of `hover` under the pointer.

    `name` is a prefix of its ids, so that they are unique in the page. Each colour is a variable of
    CSS, such as --c2b2b2b, which the page may define for dark mode.
    """
    drawing = render(figure, "svg", transparent=True).decode("utf-8")
    drawing = re.sub(r' (?:width|height)="[\d.]+pt"', "", PROLOG.sub("", drawing), count=2)
    drawing = re.sub(r"<style.*?</style>", "", drawing, flags=re.DOTALL)  # is of the whole page
    drawing = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawing)
    drawing = re.sub(r": #([0-9a-f]{6})", r": var(--c\1, #\1)", drawing)
    opening = Markup('<svg role="img" aria-label="{}"').format(alt)
    return Markup(drawing.replace("<svg", opening, 1))
