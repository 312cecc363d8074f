"""Unusual, damaged, hostile and missing image files."""

import errno
import os
import pickle
import re
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from corpus import build, picture, rgb

from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset
from misgiving.data.datasets.dataset import Dataset, HashedImage, ImageArray, ImageFiles, readable
from misgiving.data.datasets.folders import unlabelled_images
from misgiving.data.decoding import FAIL, SKIP
from misgiving.data.ood_sets import readable_set, write_ood_set
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import BadImagesError, DataError

SMALL = Preprocessing(image_size=4, crop=1.0, color_constancy="none")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The folder of bad and unusual files, and the expected result for each."""
    folder = tmp_path_factory.mktemp("corpus") / "files"
    return folder, build(folder)


def attempt(path):
    """The pixels of a file, or the reason why it is refused."""
    try:
        return ImageFiles((path,)).read(0).image
    except DataError as failure:
        return str(failure)


def is_as_expected(found, case):
    if isinstance(found, str) or found.shape != case.pixels.shape:
        return False
    return np.abs(found.astype(int) - case.pixels).max() <= case.within


def test_every_unusual_file_is_read_correctly(corpus):
    folder, cases = corpus
    odd = [case for case in cases if case.refused is None]
    assert [c.name for c in odd if not is_as_expected(attempt(folder / c.name), c)] == []


def test_every_bad_file_is_refused_by_its_name_with_a_reason_and_a_remedy(corpus):
    folder, cases = corpus
    said = {case: attempt(folder / case.name) for case in cases if case.refused is not None}
    wrong = {
        case.name: text
        for case, text in said.items()
        if not (isinstance(text, str) and re.search(case.refused, text) and ";" in text)
        or not text.startswith(f"{folder / case.name}: ")
    }
    assert wrong == {}


def test_no_file_is_executed(corpus):
    folder, cases = corpus
    for case in cases:
        attempt(folder / case.name)
    assert [path.name for path in folder.parent.iterdir()] == ["files"]


def test_a_set_of_odd_and_bad_files_is_prepared_without_the_bad_ones(corpus, tmp_path):
    folder, cases = corpus
    dataset = unlabelled_images([folder], name="corpus")
    images = prepare(dataset, SMALL, cache=tmp_path, on_bad_image="skip")
    bad = sorted(str(folder / case.name) for case in cases if case.refused)
    assert sorted(one.image for one in images.skipped) == bad
    exact = {str(folder / c.name): SMALL(c.pixels) for c in cases if c.pixels is not None}
    close = {str(folder / case.name): case.within for case in cases}
    assert len(images) == len(exact)
    for position, identity in enumerate(images.ids):
        found = images.read(np.array([position]))[0].astype(int)
        assert np.abs(found - exact[identity]).max() <= close[identity], identity


class Fragile:
    """An image source in which some images cannot be read, for a while; counts what is read."""

    def __init__(self, images, bad, error=None):
        self.source, self.bad = ImageArray(images), set(bad)
        self.error = error or DataError("it is damaged; replace it")
        self.tried: Counter[int] = Counter()

    def __len__(self):
        return len(self.source)

    def read(self, index: int) -> HashedImage:
        self.tried[index] += 1
        if index in self.bad:
            raise self.error
        return self.source.read(index)

    def key(self, index: int) -> str:
        return self.source.key(index)

    def select(self, indices):
        return self.source.select(indices)


def fragile(*bad, count=8, error=None):
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    ids = tuple(f"i{number}" for number in range(count))
    return Dataset(
        name="fragile",
        classes=("even", "odd"),
        labels=np.arange(count) % 2,
        ids=ids,
        groups=tuple(f"g{number // 2}" for number in range(count)),
        images=Fragile(images, bad, error),
    )


def names(bad):
    return [one.image for one in bad]


def test_all_bad_images_are_found_at_once(tmp_path):
    with pytest.raises(
        BadImagesError, match=r"3 of 8 images cannot be read \(i1, i4, i6\)"
    ) as caught:
        prepare(fragile(1, 4, 6), SMALL, cache=tmp_path)
    assert names(caught.value.images) == ["i1", "i4", "i6"]
    moved = pickle.loads(pickle.dumps(caught.value))  # to another process
    assert (moved.images, moved.whole) == (caught.value.images, False)
    assert list(tmp_path.iterdir()) == []


def test_one_bad_image_is_reported_with_its_own_reason(tmp_path):
    with pytest.raises(BadImagesError, match=r"^i4: it is damaged; replace it; or .*skip"):
        prepare(fragile(4), SMALL, cache=tmp_path)


def test_without_bad_images_the_rest_keeps_its_facts_and_pixels(tmp_path):
    dataset = fragile(1, 4)
    images = prepare(dataset, SMALL, cache=tmp_path, on_bad_image="skip")
    assert images.ids == ("i0", "i2", "i3", "i5", "i6", "i7")
    assert images.groups == ("g0", "g1", "g1", "g2", "g3", "g3")
    assert images.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert images.hashes == tuple(dataset.images.key(index) for index in (0, 2, 3, 5, 6, 7))
    expected = [SMALL(dataset.images.source.images[index]) for index in (0, 2, 3, 5, 6, 7)]
    np.testing.assert_array_equal(images.read(np.arange(6)), expected)
    assert names(images.select(np.array([2])).skipped) == ["i1", "i4"]


def test_the_same_again_tries_only_the_bad_images(tmp_path):
    dataset = fragile(1, 4)
    first = prepare(dataset, SMALL, cache=tmp_path, on_bad_image="skip")
    dataset.images.tried.clear()
    second = prepare(dataset, SMALL, cache=tmp_path, on_bad_image="skip")
    assert set(dataset.images.tried) == {1, 4}
    assert (second.hashes, second.skipped) == (first.hashes, first.skipped)


def test_a_class_that_loses_all_its_images_is_an_error(tmp_path):
    with pytest.raises(BadImagesError, match="none of the 4 images of class 'odd' can be read"):
        prepare(fragile(1, 3, 5, 7), SMALL, cache=tmp_path, on_bad_image="skip")


def test_a_set_that_loses_all_its_images_is_an_error(tmp_path):
    with pytest.raises(BadImagesError, match="none of the 8 images can be read"):
        prepare(fragile(*range(8)), SMALL, cache=tmp_path, on_bad_image="skip")


def because(cause):
    failure = DataError("cannot be read; try again")
    failure.__cause__ = cause
    return failure


@pytest.mark.parametrize(
    "cause",
    [OSError(errno.EMFILE, "too many open files"), OSError(errno.ENOMEM, "x"), MemoryError()],
)
@pytest.mark.parametrize("rule", [FAIL, SKIP])
def test_want_of_memory_or_handles_is_no_fault_of_an_image(tmp_path, cause, rule):
    with pytest.raises(type(cause)):
        prepare(fragile(2, error=because(cause)), SMALL, cache=tmp_path, on_bad_image=rule)


@pytest.fixture
def files(tmp_path):
    for number in range(6):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rgb(np.full((6, 6, 3), 10 * number + 9, dtype=np.uint8)))
    return tmp_path / "set"


def skipping(dataset, folder):
    return prepare(dataset, SMALL, cache=folder.parent / "cache", on_bad_image="skip")


def test_a_file_deleted_between_listing_and_reading_is_a_bad_image(files):
    dataset = load_dataset(f"folder:{files}")
    (files / "a" / "2.png").unlink()
    (bad,) = skipping(dataset, files).skipped
    assert bad.image == "a/2.png"
    assert "No such file" in bad.reason


def test_a_file_repaired_after_skipping_is_used(files):
    (files / "a" / "2.png").write_bytes(b"")
    assert len(skipping(load_dataset(f"folder:{files}"), files)) == 5
    (files / "a" / "2.png").write_bytes(rgb(picture()))
    assert len(skipping(load_dataset(f"folder:{files}"), files)) == 6


def test_all_missing_files_of_a_table_are_reported_at_once(files):
    rows = ["a/0.png,x", "a/nowhere.png,x", "b/1.png,y", "b,y"]
    (files / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(BadImagesError) as caught:
        prepare(load_dataset(f"table:{files / 't.csv'}"), SMALL, cache=files.parent / "cache")
    assert names(caught.value.images) == ["a/nowhere.png", "b"]


@contextmanager
def as_nobody():
    """Without the rights of the administrator, whom no permission stops."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_without_permission_is_a_bad_image_until_it_is_given(files):
    open_to_all = Path(tempfile.mkdtemp())
    try:
        open_to_all.chmod(0o755)
        shutil.copytree(files, open_to_all / "set")
        closed = open_to_all / "set" / "b" / "3.png"
        closed.chmod(0)
        dataset = load_dataset(f"folder:{open_to_all / 'set'}")
        with as_nobody():
            images, bad = readable(dataset, on_bad_image="skip")
        assert names(bad) == ["b/3.png"]
        assert "Permission denied" in bad[0].reason
        assert len(images) == 5
        closed.chmod(0o644)
        with as_nobody():
            assert readable(dataset)[1] == []
    finally:
        shutil.rmtree(open_to_all)


def test_a_reason_is_one_line_that_no_terminal_obeys(tmp_path):
    (tmp_path / "line\nbreak\x1b[31m.png").write_bytes(b"")
    _, bad = readable(
        unlabelled_images([tmp_path, *_good(tmp_path)], name="x"), on_bad_image="skip"
    )
    assert "line\\nbreak\\x1b[31m.png: the file is empty" in str(bad[0])
    assert str(bad[0]).isprintable()


def _good(folder):
    (folder / "good.png").write_bytes(rgb(picture()))
    return [folder / "good.png"]


def test_an_ood_set_is_built_without_bad_images_and_says_so(files, tmp_path):
    (files / "a" / "2.png").write_bytes(b"")
    source = load_dataset(f"folder:{files}")
    with pytest.raises(BadImagesError, match=r"a/2\.png: the file is empty"):
        readable_set("mine", source, place=str(files), seed=0)
    built, bad = readable_set("mine", source, place=str(files), seed=0, on_bad_image="skip")
    assert names(bad) == ["mine-a/2.png"]
    assert "left out: 1 of 6 images that cannot be read (mine-a/2.png)" in built.contents
    assert len(list(write_ood_set(built, tmp_path / "out", seed=8).glob("*.png"))) == 5
