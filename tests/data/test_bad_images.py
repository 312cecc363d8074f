import errno
import pickle
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from coloured import Fragile, dataset_of, write_photos
from corpus import HEIC, build, picture, rgb

from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset, unlabelled_images
from misgiving.data.datasets.dataset import FileImage
from misgiving.data.decoding import FAIL, SKIP, BadImagesError
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError

SMALL = Preprocessing(image_size=4, crop=1.0, color_constancy="none")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The folder of bad and unusual files, and the expected result for each."""
    folder = tmp_path_factory.mktemp("corpus") / "files"
    return folder, build(folder)


def test_every_file_is_read_correctly_or_refused_by_name_with_reason_and_remedy(corpus):
    folder, cases = corpus
    for case in cases:
        file = FileImage(folder / case.name)
        if case.refused is None:
            image = file.read().image
            assert image.shape == case.pixels.shape, case.name
            assert np.abs(image.astype(int) - case.pixels).max() <= case.within, case.name
        else:
            start = f"^{re.escape(str(folder / case.name))}: "
            with pytest.raises(DataError, match=rf"(?s){start}.*({case.refused}).*;"):
                file.read()


WITHOUT_EXTRA = """
import sys
from pathlib import Path

sys.modules["pi_heif"] = None  # as if it were not installed
from misgiving.data.datasets import load_dataset
from misgiving.data.decoding import decode
from misgiving.errors import DataError

for read in (load_dataset, lambda place: decode(Path(place[7:], "a", "x.heic").read_bytes(), "x")):
    try:
        read(f"folder:{sys.argv[1]}")
    except DataError as failure:
        print(failure)
"""


def test_without_its_extra_heic_is_ignored_or_refused_with_the_remedy(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        shutil.copy(HEIC, tmp_path / name / "x.heic")
    assert load_dataset(f"folder:{tmp_path}").images[0].read().image.shape == (16, 16, 3)
    command = [sys.executable, "-c", WITHOUT_EXTRA, tmp_path]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "ignored: 2 .heic (the extra heif reads HEIC)" in lines[0]
    assert lines[1].startswith("x: HEIC needs the extra heif;")


DAMAGED = DataError("it is damaged; replace it")


def fragile(*bad, count=8, error=DAMAGED):
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    groups = tuple(f"g{number // 2}" for number in range(count))
    return dataset_of(Fragile(images, bad, error), groups=groups)


def names(bad):
    return [image.image for image in bad]


def test_all_bad_images_are_found_at_once(tmp_path):
    with pytest.raises(BadImagesError) as caught:
        prepare(fragile(1, 4, 6), SMALL, cache=tmp_path)
    assert names(caught.value.images) == ["i1", "i4", "i6"]
    moved = pickle.loads(pickle.dumps(caught.value))  # to another process
    assert (moved.images, moved.whole) == (caught.value.images, False)
    assert list(tmp_path.iterdir()) == []


def test_without_bad_images_the_rest_keeps_its_facts_and_pixels_and_only_these_are_tried_again(
    tmp_path,
):
    dataset, rest = fragile(1, 4), (0, 2, 3, 5, 6, 7)
    images = prepare(dataset, SMALL, cache=tmp_path, on_bad_image="skip")
    assert images.ids == tuple(f"i{index}" for index in rest)
    assert images.groups == ("g0", "g1", "g1", "g2", "g3", "g3")
    assert images.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert images.hashes == tuple(dataset.images[index].key() for index in rest)
    expected = [SMALL(dataset.images[index].pixels) for index in rest]
    np.testing.assert_array_equal(images.read(np.arange(6)), expected)
    assert names(images.select(np.array([2])).skipped) == ["i1", "i4"]
    dataset.images.tried.clear()
    again = prepare(dataset, SMALL, cache=tmp_path, on_bad_image="skip")
    assert set(dataset.images.tried) == {1, 4}
    assert (again.hashes, again.skipped) == (images.hashes, images.skipped)


@pytest.mark.parametrize("bad", [(1, 3, 5, 7), range(8)])
def test_a_class_or_a_set_that_loses_all_its_images_is_an_error(tmp_path, bad):
    with pytest.raises(BadImagesError):
        prepare(fragile(*bad), SMALL, cache=tmp_path, on_bad_image="skip")


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
    write_photos(tmp_path / "set")
    return tmp_path / "set"


def skipping(dataset, folder):
    return prepare(dataset, SMALL, cache=folder.parent / "cache", on_bad_image="skip")


def test_a_file_that_is_deleted_or_damaged_is_a_bad_image_until_it_is_repaired(files):
    dataset = load_dataset(f"folder:{files}")
    (files / "NV" / "two.png").unlink()
    (bad,) = skipping(dataset, files).skipped
    assert bad.image == "NV/two.png"
    assert "No such file" in bad.reason
    (files / "NV" / "two.png").write_bytes(b"")
    assert len(skipping(load_dataset(f"folder:{files}"), files)) == 3
    (files / "NV" / "two.png").write_bytes(rgb(picture()))
    assert len(skipping(load_dataset(f"folder:{files}"), files)) == 4


def test_a_reason_is_one_line_that_no_terminal_obeys(tmp_path):
    (tmp_path / "line\nbreak\x1b[31m.png").write_bytes(b"")
    (tmp_path / "good.png").write_bytes(rgb(picture()))
    (bad,) = skipping(unlabelled_images([tmp_path], name="x"), tmp_path).skipped
    assert "line\\nbreak\\x1b[31m.png: the file is empty" in str(bad)
    assert str(bad).isprintable()
