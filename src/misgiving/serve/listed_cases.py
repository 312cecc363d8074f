"""Cases from a list of images, such as `misgiving data check` writes."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from misgiving.csv_tables import csv_rows
from misgiving.data.decoding import BadImage
from misgiving.errors import DataError, Parameter, explain_damage
from misgiving.serve.decoders import clean_name
from misgiving.serve.problems import ImageNotStoredError, storage_reason
from misgiving.serve.service import Service

IMAGES_AT_ONCE = 16
LIST_REMEDY = (
    "give a CSV file that `misgiving data check` or `predict` wrote, and run from the folder in "
    "which it was made"
)
Row = dict[str, str]


def read_review_list(path: Path) -> list[Row]:
    """Read the rows of a list as CSV: suspect labels, or decisions.

    Paths are relative to the working folder, as the commands that write lists have them.

    Raises:
        DataError: The file is missing or damaged, names no images, or an image does not exist.
    """
    with (
        explain_damage(path, remedy=LIST_REMEDY),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        header, *lines = [cells for _, cells in csv_rows(file) if cells]
        rows = [dict(zip(header, cells, strict=False)) for cells in lines]
        missing = [row["path"] for row in rows if not Path(row["path"]).is_file()]
    if missing or not rows:
        reason = f"{missing[0]!r} is not a file" if missing else "has no rows"
        raise DataError(f"{path}: {reason}; {LIST_REMEDY}")
    return rows


def add_listed_cases(
    service: Service, rows: Sequence[Row], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    """Decide on the images of a list, and store them as cases with their place and remark.

    Images that this model and policy have decided, because the service was started with this list
    before, stay their earlier cases. The last come first, because the images of the newest cases
    stay longest in memory.

    Args:
        service: The model and the store.
        rows: The list.
        on_image: Called with the number of finished images and of all.

    Returns:
        Images that cannot be read.

    Raises:
        DataError: A case or its image cannot be stored.
    """
    try:
        return asyncio.run(_add(service, rows, on_image))
    except (ImageNotStoredError, SQLAlchemyError) as failure:
        raise DataError(
            f"a listed image cannot be stored ({storage_reason(failure)}); check ",
            *(Parameter("store"), " and ", Parameter("keep_images")),
            ", and start again: what is stored stays",
        ) from failure


async def _add(
    service: Service, rows: Sequence[Row], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    places, bad = range(len(rows), 0, -1), list[BadImage | None]()
    try:
        for start in range(0, len(places), IMAGES_AT_ONCE):
            batch = places[start : start + IMAGES_AT_ONCE]
            bad += await asyncio.gather(*(_add_image(service, rows[n - 1], n) for n in batch))
            on_image(start + len(batch), len(rows))
    finally:
        await service.decoders.close()  # they are of this event loop, and the server has another
    return [image for image in reversed(bad) if image]


async def _add_image(service: Service, row: Row, place: int) -> BadImage | None:
    try:
        with Path(row["path"]).open("rb") as file:
            data = file.read(service.settings.max_bytes + 1)  # of which `decide` refuses the last
        name = clean_name(row["path"])
        await service.decide(
            name, data, place=place, remark=_remark(row), value=row.get(service.column) or None
        )
    except (OSError, DataError) as failure:
        return BadImage(row["path"], str(failure))
    return None


def _remark(row: Row) -> str:
    if not row.get("suggested_class"):
        return ""
    return (
        f"labelled {row.get('label')}; suggested class {row['suggested_class']} "
        f"(score {row.get('score')}); {row.get('why')}"
    )
