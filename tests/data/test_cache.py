import errno
import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from coloured import Fragile, dataset_of, write_photos
from PIL import Image

from misgiving.data import cache
from misgiving.data.cache import prepare
from misgiving.data.datasets import unlabelled_images
from misgiving.data.decoding import decode
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError

SMALL = Preprocessing(image_size=4, crop=1.0, color_constancy="none")


def pixels(count=7, side=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def left_in(cache):
    return sorted(path.name for path in cache.rglob("*")) if cache.exists() else []


def test_a_file_is_decoded_no_larger_than_its_square_takes(tmp_path):
    path = tmp_path / "0.jpg"
    Image.fromarray(pixels(1, side=64)[0]).save(path)
    prepared = prepare(unlabelled_images([path], name="one"), SMALL, cache=tmp_path / "cache")
    data = path.read_bytes()
    np.testing.assert_array_equal(prepared.images[0], SMALL.from_file(data, "x"))
    assert (prepared.images[0] != SMALL(decode(data, "x"))).any()
    assert prepared.hashes == (hashlib.sha256(data).hexdigest(),)


def test_every_image_is_preprocessed_once_in_order_and_then_read_without_writing(
    tmp_path, monkeypatch
):
    source = Fragile(pixels(50))
    dataset = dataset_of(source)
    first = prepare(dataset, SMALL, cache=tmp_path)
    monkeypatch.setattr(cache, "locked", None)  # a cache may be for reading only
    second = prepare(dataset, SMALL, cache=tmp_path)
    assert source.tried == Counter(range(50))
    assert first.hashes == second.hashes
    np.testing.assert_array_equal(first.images, [SMALL(image) for image in pixels(50)])
    np.testing.assert_array_equal(first.images, second.images)
    relabelled = dataset_of(source, labels=np.ones(50, dtype=np.int64))
    assert prepare(relabelled, SMALL, cache=tmp_path).labels.tolist() == [1] * 50
    assert source.tried.total() == 50


def test_a_changed_file_is_prepared_again(tmp_path):
    changed, *_ = write_photos(tmp_path / "set")
    dataset = unlabelled_images([changed], name="it")
    prepare(dataset, SMALL, cache=tmp_path / "cache")
    Image.new("RGB", (6, 6), (1, 2, 3)).save(changed)
    os.utime(changed, ns=(5, 5))
    prepared = prepare(dataset, SMALL, cache=tmp_path / "cache")
    assert prepared.read(np.array([0]))[0, 0, 0].tolist() == [1, 2, 3]


def save(array, **options):
    return lambda folder: np.save(folder / "images.npy", array, **options)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: os.truncate(folder / "images.npy", 400),
        save(np.zeros((7, 5, 5, 3), dtype=np.uint8)),
        save(np.zeros((7, 4, 4, 3))),
        save(np.array([{}]), allow_pickle=True),
        lambda folder: (folder / "images.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': }"),
        lambda folder: (folder / "hashes.json").unlink(),
    ],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, damage):
    good = prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    damage(folder)
    again = prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    np.testing.assert_array_equal(again.images, [SMALL(image) for image in pixels()])
    assert again.hashes == good.hashes


def flipped(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [-1, -200, 128])  # the first pixel follows a header of 128 bytes
def test_one_flipped_bit_of_the_pixels_is_found_when_they_are_read(tmp_path, monkeypatch, at):
    prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    flipped(folder / "images.npy", at)
    again = prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "unlink", Mock(side_effect=OSError(errno.EROFS, "read-only")))
        with pytest.raises(DataError, match=rf"{folder.name}: .*remove that folder"):
            again.read(np.arange(7))
    with pytest.raises(DataError):
        again.read(np.arange(7))
    third = prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    np.testing.assert_array_equal(third.read(np.arange(7)), [SMALL(image) for image in pixels()])


def test_after_any_flipped_bit_of_the_record_the_set_is_prepared_again(tmp_path):
    good = prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    (folder,) = tmp_path.iterdir()
    content = (folder / "hashes.json").read_bytes()
    for at in range(0, len(content), 41):
        flipped(folder / "hashes.json", at)
        assert prepare(dataset_of(pixels()), SMALL, cache=tmp_path).hashes == good.hashes
        assert (folder / "hashes.json").read_bytes() == content


def test_a_failure_or_an_interruption_leaves_nothing_behind(tmp_path):
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    dataset = dataset_of(Fragile(pixels(), [5], DataError("image 5 is damaged")))
    with pytest.raises(DataError):
        prepare(dataset, SMALL, cache=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        prepare(dataset_of(pixels()), SMALL, cache=tmp_path, report=interrupt)
    assert left_in(tmp_path) == []


def test_of_many_that_prepare_one_set_at_once_one_does_the_work(tmp_path):
    source = Fragile(pixels(40))
    dataset = dataset_of(source)
    with ThreadPoolExecutor(6) as threads:
        work = [threads.submit(prepare, dataset, SMALL, cache=tmp_path) for _ in range(6)]
    assert len({prepared.result().fingerprint for prepared in work}) == 1
    assert source.tried == Counter(range(40))


def test_a_selection_shares_the_pixels_and_keeps_the_facts(tmp_path):
    prepared = prepare(dataset_of(pixels()), SMALL, cache=tmp_path)
    twice = prepared.select(np.array([6, 2, 4, 1])).select(np.array([2, 0]))
    assert twice.images is prepared.images
    assert (twice.ids, twice.groups) == (("i4", "i6"), ("", ""))
    assert twice.labels.tolist() == [0, 0]
    assert twice.hashes == (prepared.hashes[4], prepared.hashes[6])
    np.testing.assert_array_equal(twice.read(np.array([1, 0])), prepared.images[[6, 4]])
