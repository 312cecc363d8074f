"""Sets read from somewhere, and sets written as files."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from misgiving.data.datasets import load_dataset
from misgiving.data.ood_sets.ood_set import (
    build,
    read_ood_folder,
    write_ood_set,
)
from misgiving.errors import UsageError

UNTOLD = ", resampled one by one as their sources are not known"


@pytest.fixture
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
    return [dataset.images.read(index).image for index in range(len(dataset))]


def test_a_folder_is_one_class_under_the_preprocessing_of_the_held_out_images(folder, held_out):
    made = build("tiles", held_out, seed=0, place=str(folder))
    assert (made.classes, set(made.labels.tolist()), len(made)) == (("ood",), {0}, 7)
    assert made.preprocessing == held_out.preprocessing
    assert made.augmentation == held_out.augmentation


def test_the_images_of_a_folder_are_named_from_it_on(folder, held_out):
    made = build("tiles", held_out, seed=0, place=str(folder))
    assert {"tiles-tile0.png", "tiles-deep/er/tile1.png"} < set(made.ids)
    colours = {
        identity: image[0, 0, 0] for identity, image in zip(made.ids, pixels(made), strict=True)
    }
    assert all(identity.endswith(f"tile{red}.png") for identity, red in colours.items())


def test_a_count_samples_a_folder_with_the_seed(folder, held_out):
    drawn = [build("tiles", held_out, seed=s, place=str(folder), count=3) for s in (0, 0, 1, 2, 3)]
    names = [built.ids for built in drawn]
    assert names[0] == names[1]
    assert len(set(names)) > 1
    assert {(len(built), built.left_out) for built in drawn} == {(3, 0)}


def test_fewer_than_the_paper_has_are_all_taken_and_said(folder, held_out):
    made = build("nct", held_out, seed=0, place=str(folder))
    assert made.contents == f"7 images{UNTOLD}; 7 of the paper's 1350"


def test_the_groups_of_a_table_are_its_sources(folder, held_out):
    rows = [f"{'deep/er/' if n % 2 else ''}tile{n}.png,x,{'ab'[n > 4]}" for n in range(7)]
    table = folder / "table.csv"
    table.write_text("\n".join(["path,label,group", *rows]) + "\n")
    made = build("tiles", held_out, seed=0, place=f"table:{table}")
    assert made.contents == "7 images of tiles (a 5, b 2)"
    assert made.classes == ("ood",)


def test_the_embedded_photographs_can_have_another_name(held_out):
    made = build("imagenet", held_out, seed=5, place="scikit-image")
    assert (made.name, made.ids[0]) == ("imagenet", "imagenet-0000")
    assert "from 12 photographs" in made.contents
    assert "256 of the paper's 3000" in made.contents
    np.testing.assert_array_equal(
        pixels(made)[9], pixels(build("photographs", held_out, seed=5))[9]
    )


def test_a_place_that_does_not_exist_is_refused(held_out):
    with pytest.raises(UsageError, match=r"nowhere: no such folder; name .* table:FILE\.csv"):
        build("tiles", held_out, seed=0, place="nowhere")


def test_a_manifest_has_the_hash_of_size_and_pixels_and_the_checksum_of_its_rows(
    held_out, tmp_path
):
    built = build("boxes", held_out, seed=0)
    out = write_ood_set(built, tmp_path / "out", seed=8)
    hashes = [hashlib.sha256(b"8 8 " + image.tobytes()) for image in pixels(built)]
    ids, groups = built.ids, built.groups
    lines = [f"{ids[i]},{groups[i]},{pixel.hexdigest()}\n" for i, pixel in enumerate(hashes)]
    assert (out / "manifest.csv").read_text() == "id,group,sha256\n" + "".join(lines)
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["checksum"] == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_written_set_holds_the_pixels_named_by_id(folder, held_out, tmp_path):
    built = build("tiles", held_out, seed=0, place=str(folder))
    out = write_ood_set(built, tmp_path / "out", seed=8)
    with (out / "manifest.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == list(built.ids)
    for identity, image in zip(built.ids, pixels(built), strict=True):
        written = np.asarray(Image.open(out / f"{identity.replace('/', '%2F')}.png"))
        np.testing.assert_array_equal(written, image)


def test_a_written_set_tells_how_it_was_made(folder, held_out, tmp_path):
    built = build("tiles", held_out, seed=8, place=str(folder), count=5)
    facts = json.loads(
        (write_ood_set(built, tmp_path / "out", seed=8) / "manifest.json").read_text()
    )
    assert len(facts.pop("checksum")) == 64
    assert facts == {
        "name": "tiles",
        "seed": 8,
        "count": 5,
        "left_out": 0,
        "contents": f"5 images{UNTOLD}",
    }


def test_a_set_is_written_again_byte_for_byte(held_out, tmp_path):
    first, again = (
        write_ood_set(build("derm_skin", held_out, seed=2), tmp_path / name, seed=2)
        for name in "ab"
    )
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_a_written_set_is_read_with_its_groups(held_out, tmp_path):
    built = build("photographs", held_out, seed=2, count=20)
    folder = write_ood_set(built, tmp_path / "set", seed=2)
    read = read_ood_folder(folder, name="far")
    group_of = dict(zip(read.ids, read.groups, strict=True))
    assert len(group_of) == 20 > len(set(built.groups))
    for identity, group in zip(built.ids, built.groups, strict=True):
        assert group_of[str(folder / f"{identity}.png")] == group
    (folder / "manifest.csv").unlink()
    assert read_ood_folder(folder, name="far").groups == read.ids
