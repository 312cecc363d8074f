"""One HTML file to look through: the images that were not accepted, worst first."""

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from misgiving.arrays import Picture
from misgiving.data.decoding import picture_of
from misgiving.deferral.decision_tables import DecisionRow
from misgiving.deferral.decisions import Decision
from misgiving.report.rendering import environment

MAX_IMAGES = 500  # images on a sheet, which a browser still scrolls through
THUMBNAIL_PIXELS = 240  # of a thumbnail, in pixels


def contact_sheet(decisions: Iterable[DecisionRow]) -> str:
    """The sheet of deferred and OOD images; files are read again for their thumbnails."""
    ordered = worst_first(decisions)
    counts = Counter(row.decision.decision for row in decisions if row.decision is not None)
    page = environment().get_template("contact_sheet.html")
    return page.render(
        counts=counts,
        not_accepted=len(ordered),
        rows=ordered[:MAX_IMAGES],
        thumbnail=lambda path: thumbnail_link(picture_of(Path(path))),
    )


def worst_first(decisions: Iterable[DecisionRow]) -> list[tuple[str, Decision]]:
    """Paths of deferred and OOD images: OOD first, then the least certain."""
    decided = ((row.path, row.decision) for row in decisions if row.decision is not None)
    return sorted((row for row in decided if row[1].decision != "accept"), key=_rank)


def _rank(row: tuple[str, Decision]) -> tuple[bool, float]:
    _, decision = row
    if decision.decision == "ood":
        return False, decision.ood_p_value or 0.0
    if decision.acceptance_score is not None:
        return True, decision.acceptance_score
    return True, -math.inf if decision.probability is None else decision.probability


def thumbnail_link(picture: Picture | None) -> str | None:
    """A small JPEG of a picture as a data URL; None where there is no picture."""
    if picture is None:
        return None
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
