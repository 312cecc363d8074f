"""The sets of images, versions and durations."""

from misgiving.report.inputs import ReportInputs
from misgiving.report.published import title
from misgiving.report.views.cells import ABSENT, Cell, Table, group, heads, number
from misgiving.report.wording import listed

OPTIONAL = {"paper_images": "Images in the paper", "left_out": "Left out"}


def sets_table(inputs: ReportInputs) -> Table:
    """The sets of images, with their sizes, groups and checksums."""
    facts_of_all = inputs.datasets.values()
    shown = [key for key in OPTIONAL if any(getattr(facts, key) for facts in facts_of_all)]
    columns = ("Images", "Groups", *(OPTIONAL[key] for key in shown), "Checksum")
    bodies = []
    for name, facts in inputs.datasets.items():
        tags = [f"stands in for {title(inputs.paper_set(name))}"] * inputs.stands_in(name)
        counts = [getattr(facts, key) for key in ("images", "groups", *shown)]
        cells = [number(ABSENT if count is None else str(count)) for count in counts]
        line = [Cell(facts.contents), *cells, number(facts.checksum[:12])]
        bodies.append(group(title(name), [line], tags))
    return Table([heads("Set", "Contents", numbers=columns)], bodies)


def provenance(inputs: ReportInputs) -> dict[str, str]:
    """Versions, checksum and duration."""
    settings = inputs.settings
    return {
        **{f"version of {name}": version for name, version in settings.versions.items()},
        "checksum of the images": settings.fingerprint,
        "training and measuring, summed over units": duration(settings.unit_seconds),
        "threads of each unit": listed(settings.unit_threads),
    }


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(90.0), duration(7200.0)
    ('1.5 minutes', '2.0 hours')
    """
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
