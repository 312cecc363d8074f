"""One HTML file to look through: the images that were not accepted, worst first."""

import base64
import io
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from misgiving.arrays import Picture
from misgiving.data.decoding import picture_of
from misgiving.report.rendering import environment

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_IMAGES = 500  # images on a sheet, which a browser still scrolls through
THUMBNAIL_PIXELS = 240  # of a thumbnail, in pixels


def contact_sheet(table: "DataFrame") -> str:
    """The sheet of deferred and OOD images; files are read again for their thumbnails.

    The table has a row for each, as `decide_files` gives it.
    """
    ordered = worst_first(table)
    rows = ordered[:MAX_IMAGES].astype(object)
    page = environment().get_template("contact_sheet.html")
    return page.render(
        counts=Counter(table["decision"].dropna()),
        not_accepted=len(ordered),
        rows=rows.where(rows.notna(), None).to_dict("records"),
        thumbnail=lambda path: thumbnail_link(picture_of(Path(path))),
    )


def worst_first(table: "DataFrame") -> "DataFrame":
    """Rows of deferred and OOD images: OOD first, then the least certain."""
    rows = table[table["decision"].isin(("ood", "defer"))]
    certainty = rows["acceptance_score"].fillna(rows["probability"]).fillna(-math.inf)
    certainty = certainty.where(rows["decision"] == "defer", rows["ood_p_value"].fillna(0.0))
    ranked = rows.assign(certainty=certainty)
    by = ["decision", "certainty"]
    return ranked.sort_values(by, ascending=[False, True], kind="stable")


def thumbnail_link(picture: Picture | None) -> str | None:
    """A small JPEG of a picture as a data URL; None where there is no picture."""
    if picture is None:
        return None
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
