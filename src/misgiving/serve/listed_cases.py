"""Cases from a list of images, such as `misgiving data check` writes."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from misgiving.errors import BadImage, DataError, explain_damage
from misgiving.files import csv_rows
from misgiving.serve.problems import ImageNotStoredError, storage_reason
from misgiving.serve.service import ListedImage, Service
from misgiving.serve.uploads import Upload, clean_name

BATCH_SIZE = 16  # images that are decided on at a time
REMEDY = "give a CSV file that `misgiving data check` or `predict` wrote"


def read_review_list(path: Path) -> list[ListedImage]:
    """Read a list as CSV: suspect labels, or decisions.

    Paths are relative to the working folder, as the commands that write lists have them.

    Raises:
        DataError: The file is missing or damaged, names no images, or an image does not exist.
    """
    with explain_damage(path, remedy=REMEDY), path.open(encoding="utf-8-sig", newline="") as file:
        header, *lines = [cells for _, cells in csv_rows(file) if cells] or [[]]
        rows = [dict(zip(header, cells, strict=False)) for cells in lines]
    if not rows:
        raise DataError(f"{path}: has no rows; {REMEDY}")
    if "path" not in header:
        raise DataError(f"{path}: there is no column path; {REMEDY}")
    for number, row in enumerate(rows, start=1):
        if not Path(row.get("path") or "?").is_file():
            raise DataError(
                f"{path}: row {number}: {row.get('path')!r} is not a file; run from the folder in "
                "which the list was made"
            )
    return [
        ListedImage(row["path"], number, _remark(row)) for number, row in enumerate(rows, start=1)
    ]


def _remark(row: dict[str, str]) -> str:
    if not row.get("suggested_class"):
        return ""
    return (
        f"labelled {row.get('label')}; suggested class {row['suggested_class']} "
        f"(score {row.get('score')}); {row.get('why')}"
    )


def add_listed_cases(
    service: Service, images: Sequence[ListedImage], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    """Decide on the images of a list, and store them as cases with their place and remark.

    Images that this model and policy have decided, because the service was started with this list
    before, stay their earlier cases. The last come first, because the images of the newest cases
    stay longest in memory.

    Args:
        service: The model and the store.
        images: The list.
        on_image: Called with the number of finished images and of all.

    Returns:
        Images that cannot be read.

    Raises:
        DataError: A case or its image cannot be stored.
    """
    try:
        return asyncio.run(_add(service, images, on_image))
    except (ImageNotStoredError, SQLAlchemyError) as failure:
        cause = failure.__cause__ if isinstance(failure, ImageNotStoredError) else failure
        raise DataError(
            f"a listed image cannot be stored ({storage_reason(cause)}); check `store` and "
            "`keep_images`, and start again: what is stored stays"
        ) from failure


async def _add(
    service: Service, images: Sequence[ListedImage], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    async def add(image: ListedImage) -> BadImage | None:
        try:
            data = Path(image.path).read_bytes()
            is_small = len(data) <= service.settings.max_bytes
            upload = Upload(clean_name(image.path), data if is_small else None)
            await service.decide(upload, image)
        except (OSError, DataError) as failure:
            return BadImage(image.path, str(failure))
        return None

    bad: list[BadImage] = []
    last_first = list(reversed(images))
    for start in range(0, len(images), BATCH_SIZE):
        batch = last_first[start : start + BATCH_SIZE]
        bad += filter(None, await asyncio.gather(*map(add, batch)))
        on_image(start + len(batch), len(images))
    return bad[::-1]
