from dataclasses import replace

import numpy as np
import pytest
from commands import one_line
from PIL import Image

from misgiving.data.datasets import load_dataset
from misgiving.data.ood_sets.lesions import mask_of, with_masks
from misgiving.data.ood_sets.ood_set import build
from misgiving.data.splits import Split, without_training_images, write_split
from misgiving.errors import DataError, UsageError
from misgiving.manifests import sha256_of


@pytest.fixture
def photos(tmp_path):
    """A folder for each class, and masks named by the files alone."""
    for number, name in enumerate(("NV/one", "NV/two", "DF/three", "DF/four")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 200 + number, dtype=np.uint8)).save(path)
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[5:9, 6:16] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masks" / f"{path.stem}_segmentation.png")
    return load_dataset(f"folder:{tmp_path / 'photos'}")


def test_masks_are_found_by_the_name_of_the_file_without_its_folder(photos, tmp_path):
    assert mask_of(tmp_path / "masks", "NV/one.png") == tmp_path / "masks/one_segmentation.png"
    boxed = build("b_box", with_masks(photos, str(tmp_path / "masks")), seed=0)
    assert "automatically" not in boxed.contents
    black = (boxed.images.read(0).image == 0).all(axis=2)
    assert np.argwhere(black).min(axis=0).tolist() == [5, 6]
    assert np.argwhere(black).max(axis=0).tolist() == [8, 15]


def test_a_folder_without_a_mask_of_any_image_is_refused(photos, tmp_path):
    with pytest.raises(DataError, match=r"no masks of these images.*_segmentation\.png"):
        with_masks(photos, str(tmp_path / "photos"))


def test_automatic_forgets_the_masks_beside_the_data(photos, tmp_path):
    known = replace(photos, masks=tmp_path / "masks")
    assert with_masks(known, "automatic").masks is None
    assert with_masks(known, None).masks == tmp_path / "masks"


def write_split_of(run, photos, sets):
    split = Split(
        ids=photos.ids,
        hashes=tuple(sha256_of(path.read_bytes()) for path in photos.images.paths),
        sets=sets,
        labels=tuple(photos.classes[label] for label in photos.labels),
        groups=photos.groups,
    )
    write_split(run / "split.csv", split)


HALF = ("train", "validation", "train", "validation")


def test_training_images_of_a_run_are_left_out(photos, tmp_path):
    write_split_of(tmp_path / "run", photos, HALF)
    assert without_training_images(photos, tmp_path / "run").ids == photos.ids[1::2]


def test_training_images_are_known_by_their_content_and_not_by_their_name(photos, tmp_path):
    write_split_of(tmp_path / "run", photos, HALF)
    (tmp_path / "all.csv").write_text(
        "path,label\n" + "".join(f"photos/{name},any\n" for name in photos.ids)
    )
    table = load_dataset(f"table:{tmp_path / 'all.csv'}")
    left = without_training_images(table, tmp_path / "run")
    assert left.ids == tuple(f"photos/{name}" for name in photos.ids[1::2])
    for path in photos.images.paths:
        Image.fromarray(np.full((20, 30, 3), 7, dtype=np.uint8)).save(path)
    assert without_training_images(photos, tmp_path / "run").ids == photos.ids


def test_a_run_that_was_trained_on_everything_leaves_nothing(photos, tmp_path):
    write_split_of(tmp_path / "run", photos, ("train",) * 4)
    with pytest.raises(UsageError, match="was trained on all images"):
        without_training_images(photos, tmp_path / "run")


@pytest.mark.parametrize("place", [False, True], ids=["derived", "from a place"])
def test_a_set_has_no_training_image_wherever_its_images_are_from(
    misgiving, photos, tmp_path, place
):
    write_split_of(tmp_path / "run", photos, HALF)
    data = f"folder:{tmp_path / 'photos'}"
    options = ("--masks", tmp_path / "masks")
    if place:
        other = tmp_path / "other" / "red" / "1.png"
        other.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(other)
        (tmp_path / "other" / "blue").mkdir()
        Image.new("RGB", (30, 20), "blue").save(tmp_path / "other" / "blue" / "2.png")
        data, options = f"folder:{tmp_path / 'other'}", ("--place", tmp_path / "photos")
    code, _, error = misgiving(
        "data", "ood", "b_box", data, *options, "--run", tmp_path / "run", "--out", tmp_path / "set"
    )
    assert code == 0, error
    manifest = (tmp_path / "set" / "manifest.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in manifest] == [f"b_box-{name}" for name in photos.ids[1::2]]


@pytest.mark.usefixtures("photos")
def test_masks_are_refused_where_no_image_is_derived(misgiving, tmp_path):
    folder = tmp_path / "photos"
    code, _, error = misgiving(
        "data", "ood", "mine", f"folder:{folder}", "--place", folder, "--masks", "automatic",
        "--out", tmp_path / "set",
    )  # fmt: skip
    assert code == 2
    assert "--masks has no effect with --place" in one_line(error)
