"""Cases from a list of images, such as `misgiving data check` writes."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from misgiving.errors import BadImage, DataError
from misgiving.manifests import sha256_of
from misgiving.results.review_lists import ListedImage
from misgiving.serve.problems import ImageNotStoredError, storage_reason
from misgiving.serve.service import Service
from misgiving.serve.uploads import Upload, clean_name

BATCH_SIZE = 16  # images that are decided on at a time


def add_listed_cases(
    service: Service, images: Sequence[ListedImage], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    """Decide on the images of a list, and store them as cases with their place and remark.

    Images that this model and policy have decided, because the service was started with this list
    before, are not decided again. The last come first, because the images of the newest cases stay
    longest in memory.

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
    except ImageNotStoredError as failure:
        reason = storage_reason(failure.__cause__)
        raise DataError(
            f"{service.settings.keep_images}: an image cannot be stored ({reason}); check free "
            "space and permissions, or choose another folder with `keep_images`"
        ) from failure
    except SQLAlchemyError as failure:
        raise DataError(
            f"the database is not available ({storage_reason(failure)}); start again, and what is "
            "stored is not decided again"
        ) from failure


async def _add(
    service: Service, images: Sequence[ListedImage], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    decided_ids = service.store.listed(
        service.model.fingerprint,
        service.policy_fingerprint,
        image_kept=service.files is not None,
    )

    async def add(image: ListedImage) -> BadImage | None:
        try:
            data = Path(image.path).read_bytes()
            name = clean_name(image.path)
            id = decided_ids.get((sha256_of(data), image.place, image.remark))
            if id is None:
                is_small = len(data) <= service.settings.max_bytes
                await service.decide(Upload(name, data if is_small else None), image)
            elif service.files is None:
                await service.keep_in_memory(id, name, data)
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
