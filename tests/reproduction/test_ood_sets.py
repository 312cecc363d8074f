import csv
import hashlib
import importlib.metadata
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from coloured import dataset_of, write_photos
from PIL import Image

from misgiving.data.datasets import load_dataset, read_ood_folder, write_ood_set
from misgiving.data.splits import Split, without_training_images, write_split
from misgiving.errors import UsageError
from misgiving.files import sha256_of
from misgiving.reproduction import ood_sets
from misgiving.reproduction.ood_sets import OOD_SETS, PHOTOGRAPHS, build, readable_set

UNTOLD = ", resampled one by one as their sources are not known"


@pytest.fixture(scope="module")
def held_out():
    return load_dataset("digits").select(np.arange(20, 40))


@pytest.fixture
def folder(tmp_path):
    """Seven images of different colours, at two depths."""
    place = tmp_path / "tiles"
    for number in range(7):
        path = place / ("deep/er" if number % 2 else "") / f"tile{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6 + number, 5), (number, 20, 200)).save(path)
    return place


def pixels(dataset):
    return [dataset.images[index].read().image for index in range(len(dataset))]


@pytest.mark.parametrize("name", OOD_SETS)
def test_a_set_has_one_class_the_settings_of_the_held_out_images_and_bytes_by_seed(name, held_out):
    held_out = replace(held_out, sets=("test",) * len(held_out))
    ood, again = (build(name, held_out, seed=4) for _ in range(2))
    assert ood.select(np.arange(3)).sets == ()
    assert (ood.name, ood.classes, set(ood.labels.tolist())) == (name, ("ood",), {0})
    assert ood.preprocessing == held_out.preprocessing
    assert [image.key() for image in ood.images] == [image.key() for image in again.images]
    np.testing.assert_array_equal(pixels(ood)[2], pixels(again)[2])


def test_crops_are_cut_out_unchanged_and_none_occurs_twice(held_out):
    place = importlib.metadata.distribution("scikit-image").locate_file("skimage/data/ihc.png")
    picture = np.asarray(Image.open(str(place)).convert("RGB"))
    crop = pixels(build("histology", held_out, seed=0))[3]
    windows = np.lib.stride_tricks.sliding_window_view(picture, (64, 64, 3))
    assert (windows[:, :, 0, ::21, ::21] == crop[::21, ::21]).all(axis=(2, 3, 4)).any()
    noise = np.random.default_rng(0).integers(0, 256, (66, 66, 3)).astype(np.uint8)
    crops = ood_sets.random_crops(noise, 9, np.random.default_rng(0))  # has just nine places
    assert len({crop.tobytes() for crop in crops}) == 9


def test_photographs_are_balanced_over_the_pictures_which_are_their_groups(held_out):
    crops = build("photographs", held_out, seed=5)
    counts = Counter(crops.groups)
    assert set(counts) == {name.partition(".")[0] for name in PHOTOGRAPHS}
    assert set(counts.values()) == {21, 22}
    renamed = build("imagenet", held_out, seed=5, place="scikit-image")
    assert (renamed.name, renamed.ids[0]) == ("imagenet", "imagenet-0000")
    assert "from 12 photographs" in renamed.contents
    assert "256 of the paper's 3000" in renamed.contents
    np.testing.assert_array_equal(pixels(renamed)[9], pixels(crops)[9])


def test_a_box_is_black_over_the_ink_and_white_paper_stays(held_out):
    boxed = pixels(build("boxes", held_out, seed=0))
    for before, after in zip(pixels(held_out), boxed, strict=True):
        darkness = 255 - before[..., 0].astype(int)
        ink = [at for at in np.ndindex(8, 8) if 2 * darkness[at] >= darkness.max()]
        top, left = min(row for row, _ in ink), min(column for _, column in ink)
        bottom, right = max(row for row, _ in ink), max(column for _, column in ink)
        for row, column in np.ndindex(8, 8):
            inside = top <= row <= bottom and left <= column <= right
            expected = [0, 0, 0] if inside else before[row, column].tolist()
            assert after[row, column].tolist() == expected


def test_a_blank_page_is_boxed_as_a_whole():
    page = np.full((1, 4, 5, 3), 255, dtype=np.uint8)
    assert (pixels(build("boxes", dataset_of(page), seed=0)) == np.zeros_like(page)).all()


def test_a_folder_is_one_class_with_names_from_it_on(folder, held_out):
    made = build("tiles", held_out, seed=0, place=str(folder))
    assert (made.classes, set(made.labels.tolist()), len(made)) == (("ood",), {0}, 7)
    assert {"tiles-tile0.png", "tiles-deep/er/tile1.png"} < set(made.ids)
    for identity, image in zip(made.ids, pixels(made), strict=True):
        assert identity.endswith(f"tile{image[0, 0, 0]}.png")
    drawn = [build("tiles", held_out, seed=s, place=str(folder), count=3) for s in (0, 0, 1, 2, 3)]
    assert {len(built) for built in drawn} == {3}
    assert drawn[0].ids == drawn[1].ids
    assert len({built.ids for built in drawn}) > 1


def test_a_written_set_holds_the_pixels_by_id_with_hashes_and_how_it_was_made(
    folder, held_out, tmp_path
):
    built = build("tiles", held_out, seed=8, place=str(folder), count=5)
    out = write_ood_set(built, tmp_path / "out", seed=8)
    with (out / "manifest.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == list(built.ids)
    for row, group, image in zip(rows, built.groups, pixels(built), strict=True):
        written = np.asarray(Image.open(out / f"{row['id'].replace('/', '%2F')}.png"))
        np.testing.assert_array_equal(written, image)
        size = f"{image.shape[0]} {image.shape[1]} ".encode()
        expected = {"group": group, "sha256": hashlib.sha256(size + image.tobytes()).hexdigest()}
        assert row == {"id": row["id"], **expected}
    lines = (out / "manifest.csv").read_text().removeprefix("id,group,sha256\n")
    facts = {"name": "tiles", "seed": 8, "count": 5, "left_out": 0, "contents": f"5 images{UNTOLD}"}
    checksum = hashlib.sha256(lines.encode()).hexdigest()
    assert json.loads((out / "manifest.json").read_text()) == {**facts, "checksum": checksum}


def test_a_written_set_is_read_with_its_groups(held_out, tmp_path):
    built = build("photographs", held_out, seed=2, count=20)
    folder = write_ood_set(built, tmp_path / "set", seed=2)
    read = read_ood_folder(folder, name="far")
    group_of = dict(zip(read.ids, read.groups, strict=True))
    assert len(group_of) == 20 > len(set(built.groups))
    for identity, group in zip(built.ids, built.groups, strict=True):
        assert group_of[str(folder / f"{identity}.png")] == group
    (folder / "manifest.csv").unlink()
    assert read_ood_folder(folder, name="far").groups == ("",) * 20


@pytest.fixture
def photos(tmp_path):
    """Four photographs in a folder for each class, and a run that was trained on half of them."""
    write_photos(tmp_path / "photos")
    images = load_dataset(f"folder:{tmp_path / 'photos'}")
    write_split_of(tmp_path / "run", images, ("train", "validation") * 2)
    return images


def write_split_of(run, photos, sets):
    hashes = tuple(sha256_of(path.read_bytes()) for path in [image.path for image in photos.images])
    write_split(run / "split.csv", Split(photos.ids, hashes, sets, ("x",) * 4, photos.groups))


def test_training_images_are_known_by_their_content_and_not_by_their_name(photos, tmp_path):
    assert without_training_images(photos, tmp_path / "run").ids == photos.ids[1::2]
    (tmp_path / "all.csv").write_text(
        "path,label\n" + "".join(f"photos/{name},any\n" for name in photos.ids)
    )
    table = load_dataset(f"table:{tmp_path / 'all.csv'}")
    left = without_training_images(table, tmp_path / "run")
    assert left.ids == tuple(f"photos/{name}" for name in photos.ids[1::2])
    write_split_of(tmp_path / "run", photos, ("train",) * 4)
    with pytest.raises(UsageError):
        without_training_images(photos, tmp_path / "run")
    for path in [image.path for image in photos.images]:
        Image.fromarray(np.full((20, 30, 3), 7, dtype=np.uint8)).save(path)
    assert without_training_images(photos, tmp_path / "run").ids == photos.ids


@pytest.mark.parametrize("is_derived", [True, False])
def test_a_set_has_no_training_image_wherever_its_images_are_from(photos, tmp_path, is_derived):
    place = None if is_derived else str(tmp_path / "photos")
    options = {"place": place, "seed": 0, "run": tmp_path / "run"}
    built, _ = readable_set("boxes" if is_derived else "x", photos, **options)
    assert [name.partition("-")[2] for name in built.ids] == list(photos.ids[1::2])
