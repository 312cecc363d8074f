"""Cases from a list of images, such as `misgiving data audit` and `misgiving data rank` write."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from misgiving.errors import BadImage, DataError
from misgiving.manifests import sha256_of
from misgiving.results.review_lists import ListedImage
from misgiving.serve.service import Service
from misgiving.serve.uploads import Upload, clean_name

TOGETHER = 16  # images that are decided on at a time


def add_listed_cases(
    service: Service, images: Sequence[ListedImage], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    """Decide on the images of a list, and store them as cases with their place and remark.

    What is stored already, because the service was started with this list before, is not stored
    again. The last come first, because the images of the newest cases stay longest in memory.

    Args:
        service: With the model and the store.
        images: The list.
        on_image: Called with the number of finished images and of all.

    Returns:
        Images that cannot be read.
    """
    return asyncio.run(_add(service, images, on_image))


async def _add(
    service: Service, images: Sequence[ListedImage], on_image: Callable[[int, int], None]
) -> list[BadImage]:
    known, bad = service.store.listed(), []
    waiting = list(reversed(images))
    for start in range(0, len(waiting), TOGETHER):
        batch = waiting[start : start + TOGETHER]
        found = await asyncio.gather(*(_add_one(service, one, known) for one in batch))
        bad += [one for one in found if one is not None]
        on_image(start + len(batch), len(waiting))
    return bad[::-1]


async def _add_one(
    service: Service, image: ListedImage, known: set[tuple[str, int, str | None]]
) -> BadImage | None:
    try:
        data = Path(image.path).read_bytes()
        if (sha256_of(data), *image.listing) not in known:
            size = service.settings.max_bytes
            upload = Upload(clean_name(image.path), data if len(data) <= size else None)
            await service.decide(upload, image.listing)
    except (OSError, DataError) as failure:
        return BadImage(image.path, str(failure))
    return None
