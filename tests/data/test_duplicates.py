import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from misgiving.data import check
from misgiving.data.check import PICTURE_HASH, image_hashes, near_duplicates, picture_hash
from misgiving.data.datasets import load_dataset


def hashes_of(images):
    return np.array([*map(picture_hash, images)], dtype=PICTURE_HASH)


def blob(seed, height=120, width=160):
    """A dark blob in the middle of light skin with marks of its own, as dermoscopy shows."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    grey = 190 - 90 * np.exp(-3 * (rows**2 + columns**2))
    marks = generator.normal(size=(12, 16)).astype(np.float32)
    texture = Image.fromarray(marks).resize((width, height), Image.Resampling.BICUBIC)
    values = np.clip(grey + 12 * np.asarray(texture), 0, 255).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=2)


def encoded(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def scaled(image, share):
    return image.resize(tuple(round(side * share) for side in image.size), Image.Resampling.BICUBIC)


COPIES = {
    "itself": lambda image: image,
    "encoded": lambda image: encoded(image, 50),
    "halved": lambda image: scaled(image, 0.5),
    "squeezed": lambda image: image.resize((112, 112), Image.Resampling.BILINEAR),
    "lighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.85),
    "all at once": lambda image: encoded(
        scaled(ImageEnhance.Brightness(image).enhance(0.9), 0.5), 60
    ),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found(copy):
    image = blob(0)
    copied = np.array(COPIES[copy](Image.fromarray(image)))
    assert near_duplicates(hashes_of([blob(1), image, blob(2), copied])) == [(1, 3)]


def test_blobs_with_other_marks_are_no_copies_and_flat_images_that_are_about_as_light_are():
    assert near_duplicates(hashes_of([blob(seed) for seed in range(60)])) == []
    flat = [np.full((20, 30, 3), grey, np.uint8) for grey in (100, 110, 200)]
    assert near_duplicates(hashes_of([*flat, blob(0)])) == [(0, 1)]


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_pairs_do_not_depend_on_the_size_of_a_block(monkeypatch, block):
    monkeypatch.setattr(check, "BLOCK_IMAGES", block)
    images = [blob(seed % 4) for seed in range(9)]
    expected = [(i, j) for i in range(9) for j in range(i + 1, 9) if i % 4 == j % 4]
    assert near_duplicates(hashes_of(images)) == expected


def test_bits_thumbnails_or_detail_alone_make_no_pair():
    generator = np.random.default_rng(0)
    detail = check._detail(generator.normal(0, 20, (1, 32, 32)).astype(np.float32))
    light = np.kron([[1, -1] * 2, [-1, 1] * 2] * 2, np.ones((8, 8))) * 40
    lights = np.clip(128 + detail + np.stack([light, -light]), 0, 255).astype(np.uint8)
    hashes = hashes_of([blob(0), blob(1)])
    for field in PICTURE_HASH.names:
        alike = hashes.copy()
        alike[field] = hashes[field][0]
        assert near_duplicates(alike) == []
    hashes["bits"], hashes["thumbnail"] = 0, lights
    assert near_duplicates(hashes) == []


def test_prepared_images_are_read_in_blocks(monkeypatch, images):
    monkeypatch.setattr(check, "BLOCK_IMAGES", 10)
    np.testing.assert_array_equal(image_hashes(images), hashes_of(images.images))


def test_real_lesions_that_differ_are_never_joined(real_data):
    dataset = load_dataset(f"isic2019:{real_data / 'isic2019-mini'}")
    chosen = dataset.select(np.arange(0, len(dataset), 4))
    images = [chosen.images[index].read().image for index in range(len(chosen))]
    for first, second in near_duplicates(hashes_of(images)):
        assert chosen.groups[first] == chosen.groups[second]
