"""Style of the figures: colours and strokes of the models, and a figure as bytes."""

import base64
import io
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, ParamSpec

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Line = str | tuple[int, tuple[float, ...]]
# Okabe and Ito's palette, distinct with the common colour blindnesses; grey for no estimator, and
# a yellow that can be seen on white
STYLES: dict[str, tuple[str, Line, str]] = {  # colour, stroke and marker of each model
    "vanilla": ("#7a7a7a", "--", "s"),
    "mse": ("#e69f00", ":", "^"),
    "detached": ("#009e73", "-.", "D"),
    "proposed": ("#0072b2", "-", "o"),
    "proposed_halves": ("#d55e00", (0, (5.0, 1.0)), "v"),
    "proposed_sum": ("#b59b00", (0, (3.0, 1.0, 1.0, 1.0, 1.0, 1.0)), "P"),
    "proposed+logits": ("#cc79a7", (0, (8.0, 2.0)), "<"),
}
OTHER_COLOUR = "#56b4e9"
OTHER_STYLE: tuple[str, Line, str] = (OTHER_COLOUR, "-", "o")
INK = "#2b2b2b"
STYLE: dict[Any, Any] = {  # newer matplotlib types each key, older takes any text
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#8c8c8c",
    "axes.linewidth": 0.7,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "misgiving",  # without one, the ids in an SVG are drawn anew each time
    "svg.fonttype": "path",
}
Kind = Literal["png", "svg", "jpg"]
MEDIA = {"svg": "image/svg+xml", "jpg": "image/jpeg"}
KINDS: tuple[Kind, ...] = ("png", "svg")  # those that are written beside the page
MAX_NAME = 20  # characters of a name
HOVER = "hover:"  # before the words of a mark, in its id
PROLOG = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
MARK = re.compile(
    rf'<g id="{HOVER}([^"]*)">.*?<use [^>]*? x="([-\d.e]+)" y="([-\d.e]+)"[^>]*>\s*</g>\s*</g>',
    re.DOTALL,
)
VALUE = (
    r'<circle class="value" cx="\2" cy="\3" r="6" fill="none" pointer-events="all">'
    r"<title>\1</title></circle>"
)

Parameters = ParamSpec("Parameters")


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draw in the report's style, and leave the caller's matplotlib settings as they were."""

    @wraps(draw)
    def drawn(*args: Parameters.args, **options: Parameters.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            figure = draw(*args, **options)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # else each rendering moves the axes a little further
            return figure

    return drawn


def render(figure: Figure, kind: Kind, *, transparent: bool = False) -> bytes:
    """The figure as a file's bytes: the same for the same figure, so without a date."""
    fields = {"png": ["Software"], "svg": ["Date", "Creator"], "jpg": []}[kind]
    metadata: Any = dict.fromkeys(fields) or None
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):  # ticks are only made when drawn
        figure.savefig(file, format=kind, dpi=160, metadata=metadata, transparent=transparent)
    drawn = file.getvalue()
    return MARK.sub(VALUE, drawn.decode("utf-8")).encode("utf-8") if kind == "svg" else drawn


def figure_link(figure: Figure, kind: Kind) -> str:
    """A figure as a data URL."""
    return f"data:{MEDIA[kind]};base64,{base64.b64encode(render(figure, kind)).decode('ascii')}"


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


def hover(axes: Axes, x: float, y: float, words: str) -> None:
    """Show words where the pointer is near a place of the axes."""
    place: dict[str, Any] = {"transform": axes.transData, "gid": f"{HOVER}{words}"}
    mark = Line2D([x], [y], marker=".", linestyle="none", alpha=0, **place)
    axes.figure.add_artist(mark)  # to the figure: it is no line of a legend, and bounds no axis


def shortened(name: str) -> str:
    """A name as a figure can show it; matplotlib would read formulas between dollar signs."""
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"
    return short.replace("$", r"\$")


def mark_missing(axes: Axes) -> None:
    """Mark a panel without data."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="#8c8c8c")
