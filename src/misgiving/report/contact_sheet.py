"""One HTML file to look through: the images that were not accepted, worst first."""

import base64
import io
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from misgiving.data.decoding import Picture, picture_of
from misgiving.deferral.decision_tables import DecisionRow
from misgiving.report.rendering import environment

MOST = 500  # images on a sheet, which a browser still scrolls through
SIDE = 240  # of a thumbnail, in pixels


def contact_sheet(decisions: Iterable[DecisionRow]) -> str:
    """The sheet of deferred and OOD images; files are read again for their thumbnails."""
    ordered = worst_first(decisions)
    counts = Counter(one.decision for one in decisions if one.decision is not None)
    return (
        environment()
        .get_template("contact_sheet.html")
        .render(
            counts=[f"{counts[name]} {name}" for name in ("accept", "defer", "ood")],
            total=counts.total(),
            not_accepted=len(ordered),
            cards=[
                (
                    one,
                    f"{100 * (one.probability or 0.0):.0f}",
                    thumbnail_link(picture_of(Path(one.path))),
                )
                for one in ordered[:MOST]
            ],
        )
    )


def worst_first(decisions: Iterable[DecisionRow]) -> list[DecisionRow]:
    """Deferred and OOD images: OOD first, then by descending probability of error."""
    return sorted((one for one in decisions if one.decision in ("defer", "ood")), key=_rank)


def _rank(one: DecisionRow) -> tuple[bool, float]:
    if one.decision == "ood":
        return False, one.ood_p_value or 0.0
    if one.error_probability is not None:
        return True, -one.error_probability
    return True, -3.0 if one.probability is None else one.probability - 2


def thumbnail_link(picture: Picture | None) -> str | None:
    """A small JPEG of a picture as a data URL; None where there is no picture."""
    if picture is None:
        return None
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
