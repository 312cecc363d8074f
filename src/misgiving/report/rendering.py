"""The templates of the pages."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from misgiving.errors import visible
from misgiving.report.names import PLAIN, POINTS, count, detector_name


@cache
def environment() -> Environment:
    """The templates of this package; everything that they insert is escaped."""
    templates = Environment(
        loader=PackageLoader("misgiving.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals["count"] = count
    templates.filters |= {
        "detector_name": detector_name,
        "plain": PLAIN.number,
        "points": POINTS.number,
        "visible": visible,
    }
    return templates
