"""The templates of the pages."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from misgiving.report.wording import count


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
    return templates
