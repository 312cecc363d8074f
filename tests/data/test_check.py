from dataclasses import replace

import numpy as np
import pytest
from coloured import Fragile, dataset_of
from PIL import Image

from misgiving.data.check import contradictory_copies, data_check
from misgiving.data.datasets import load_dataset


def noise(seed):
    """A picture of coarse spots in colour."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((60, 40), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """Ten images of two classes and six lesions, with faults.

    Image 1 is a copy of 0 by its bytes and of the other class; 6 and 8 have lesion and pixels of 2
    in other formats, 8 another label; 7 is 3 in another size; 5 is no image; 9 is of another label
    than 3, of whose lesion it is.
    """
    for index in (0, 2, 3, 4, 9):
        noise(index).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "5.png").write_text("not an image\nat all")
    noise(2).save(tmp_path / "6.bmp")
    noise(2).save(tmp_path / "8.tif")
    noise(3).resize((90, 60), Image.Resampling.BICUBIC).save(tmp_path / "7.png")
    names = [f"{index}.{ {6: 'bmp', 8: 'tif'}.get(index, 'png') }" for index in range(10)]
    labels = ["a", "b", "a", "a", "b", "a", "a", "a", "b", "b"]
    groups = ["x", "y", "z", "w", "v", "v", "z", "u", "z", "w"]
    rows = (",".join(row) for row in zip(names, labels, groups, strict=True))
    (tmp_path / "t.csv").write_text("path,label,group\n" + "\n".join(rows) + "\n")
    return load_dataset(f"table:{tmp_path / 't.csv'}")


@pytest.fixture
def result(photos):
    return data_check(photos)


def test_every_fault_is_found_and_nothing_else(result):
    expected = {
        "unreadable files": [("5", "")],
        "files of the same content": [("1", "0")],
        "files of the same pixels alone": [("6", "2"), ("8", "2")],
        "near duplicates": [("7", "3")],
        "groups with several images": [("6", "2"), ("8", "2"), ("9", "3"), ("5", "4")],
        "copies with different labels": [("1", "0"), ("8", "2")],
        "groups with different labels": [("8", "2"), ("9", "3"), ("5", "4")],
        "nearly black images": [],
    }
    summary, findings = result
    faults = {
        name: [(image[0], other[:1]) for check, image, other, _ in findings if check == name]
        for name in expected
    }
    assert faults == expected
    rows = {name: row for name, *row in summary}
    assert {name: rows[name][0] for name in expected} == {
        name: len({other for _, other in pairs} if name.startswith("groups") else pairs)
        for name, pairs in expected.items()
    }
    assert rows["images"] == [10, "in 2 classes"]
    assert rows["images of b"] == [4, ""]
    assert rows["near duplicates"] == [1, "1 of different groups"]
    assert rows["groups with several images"] == [3, "7 images; 6 groups in all"]
    assert rows["files of the same pixels alone"] == [2, "0 of different groups"]


def test_copies_and_groups_in_different_published_sets_are_found(photos):
    assert not [row for row in data_check(photos)[0] if "sets" in row[0]]
    sets = ("train", "test", "train", "test", "train", "train", "train", "test", "test", "test")
    summary, findings = data_check(replace(photos, sets=sets, ignored={".heic": 2}))
    assert ("ignored files", 2, "2 .heic (the extra heif reads HEIC)") in summary
    faults = [(check, image[0], other[0]) for check, image, other, _ in findings if "sets" in check]
    copies, groups = "copies in different sets", "groups in different sets"
    assert faults == [(copies, "1", "0"), (copies, "8", "2"), (groups, "8", "2")]
    assert findings[-1][3] == "z: test, train"
    assert [row[:2] for row in summary if "sets" in row[0]] == [(copies, 2), (groups, 1)]


def test_copies_with_different_labels_are_found_by_content_and_among_near_duplicates(images):
    images = replace(images, hashes=(images.hashes[4], *images.hashes[1:]))  # of classes a and b
    near = [(2, 5), (7, 9)]  # of c both, and of b and a
    assert contradictory_copies(images, near) == [(0, 4), (7, 9)]


def test_an_image_no_brighter_than_12_bits_in_16_is_nearly_black_and_the_remedy_is_stated():
    images = np.zeros((2, 40, 60, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = 16, 17
    summary, findings = data_check(dataset_of(images))
    name = "nearly black images"
    rows = [row for row in findings if row[0] == name]
    assert rows == [(name, "i0", "", "brightest value 16 of 255")]
    assert summary[-1][:2] == (name, 1)
    assert "save them with the whole range of values" in summary[-1][2]


def test_an_image_that_fails_in_any_way_does_not_end_the_data_check():
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8)
    dataset = dataset_of(Fragile(images, [1, 5], MemoryError("no room\nfor it")))
    findings = [row for row in data_check(dataset)[1] if row[0] == "unreadable files"]
    assert [row[1:] for row in findings] == [
        ("i1", "", "no room for it"),
        ("i5", "", "no room for it"),
    ]
