import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from misgiving.data import datasets
from misgiving.data.datasets import (
    DATASETS,
    Dataset,
    ImageArray,
    ImageFiles,
    load_dataset,
    unlabelled,
)
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.errors import DataError, UsageError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "isic2019-mini"
CLASSES = ["MEL", "NV", "BCC", "UNK"]


def save_image(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 20, 30)).save(path)
    return path


def write_table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a/deep/er/3.webp", "a/4.TIFF", "a/0.bmp"):
        save_image(tmp_path / "set" / name)
    return tmp_path / "set"


@pytest.fixture
def isic(tmp_path):
    """Three images in the official layout; the second has no lesion id."""
    diagnoses = {"ISIC_1": "NV", "ISIC_2": "MEL", "ISIC_3": "NV"}
    truth = [
        ",".join([name, *("1.0" if diagnosis == c else "0.0" for c in CLASSES)])
        for name, diagnosis in diagnoses.items()
    ]
    for name in diagnoses:
        save_image(tmp_path / "ISIC_2019_Training_Input" / f"{name}.jpg")
    write_table(
        tmp_path / "ISIC_2019_Training_GroundTruth.csv", f"image,{','.join(CLASSES)}", *truth
    )
    write_table(
        tmp_path / "ISIC_2019_Training_Metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        *("ISIC_1,50,,HAM_1,male", "ISIC_2,,,,", "ISIC_3,40,,HAM_1,female"),
    )
    return tmp_path


def tiny(**changes):
    fields = {
        **{"name": "tiny", "classes": ("a", "b", "c"), "labels": np.array([0, 1, 2, 1])},
        **{"ids": ("w", "x", "y", "z"), "groups": ("g", "h", "i", "h")},
        "images": ImageArray(np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)),
    }
    return Dataset(**{**fields, **changes})


def test_digits_are_dark_ink_on_white_paper():
    bunch = load_digits()
    image = load_dataset("digits").images.read(5).image
    for row in range(8):
        for column in range(8):
            ink = bunch.images[5][row][column]
            assert image[row, column].tolist() == [round(255 - ink * 255 / 16)] * 3


def test_digits_have_their_labels_and_own_settings():
    digits = load_dataset("digits")
    assert digits.labels.tolist() == load_digits().target.tolist()
    assert digits.classes == tuple("0123456789")
    assert digits.ids[1796] == "digit-1796"
    assert (digits.preprocessing.crop, digits.preprocessing.color_constancy) == (1.0, "none")


def test_digits_are_not_mirrored_while_training():
    assert not load_dataset("digits").augmentation.flips


def test_a_folder_gives_a_class_for_each_sub_folder(folder):
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.classes == ("a", "b")
    assert dataset.ids == ("a/0.bmp", "a/4.TIFF", "a/deep/er/3.webp", "b/1.jpg", "b/2.PNG")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.groups == dataset.ids


def test_a_set_is_named_as_it_was_asked_for(folder):
    assert load_dataset(f"folder:{folder}").name == f"folder:{folder}"


def test_a_folder_suits_the_papers_preprocessing(folder):
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.preprocessing == Preprocessing()
    assert dataset.augmentation == AugmentationSettings()


def test_other_and_hidden_files_are_no_images(folder):
    for name in ("b/notes.txt", "b/.hidden.jpg", "b/.thumbs/1.jpg", ".git/x.jpg"):
        save = folder / name
        save.parent.mkdir(exist_ok=True)
        save.write_text("nothing")
    assert len(load_dataset(f"folder:{folder}")) == 5


def test_a_link_that_leads_round_in_a_circle_is_not_followed(folder):
    (folder / "a" / "again").symlink_to(folder / "a")
    assert len(load_dataset(f"folder:{folder}")) == 5


def test_a_linked_class_folder_is_a_class(folder, tmp_path):
    save_image(tmp_path / "elsewhere" / "5.png")
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    assert load_dataset(f"folder:{folder}").ids[-1] == "c/5.png"


def test_home_is_found_in_a_folder_name(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(load_dataset("folder:~/set")) == 5


def remove_class_folder(folder):
    for path in (folder / "b").iterdir():
        path.unlink()
    (folder / "b").rmdir()


def empty_class_folder(folder):
    (folder / "c").mkdir()


def rename_with_bytes_that_are_no_text(folder):
    (folder / "b/1.jpg").rename(folder / "b" / os.fsdecode(b"\xff.jpg"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove_class_folder, r"set: fewer than two class folders; give each"),
        (empty_class_folder, r"set/c: holds no image \(.*png.*\); add some or remove it"),
        (rename_with_bytes_that_are_no_text, r"not UTF-8; rename the file"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_and_what_helps(folder, damage, says):
    damage(folder)
    with pytest.raises(DataError, match=says):
        load_dataset(f"folder:{folder}")


@pytest.mark.parametrize("kind", ["folder", "isic2019"])
@pytest.mark.parametrize(
    ("place", "says"), [("x/none", "no such folder"), ("file", "not a folder")]
)
def test_a_folder_that_is_none_is_refused(tmp_path, kind, place, says):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"{place}: .*{says}; name the folder"):
        load_dataset(f"{kind}:{tmp_path / place}")


def test_a_table_names_images_from_its_own_folder_on(folder, tmp_path):
    far = save_image(tmp_path / "far.png")
    table = write_table(
        folder / "t.csv", "label,path,group", "mole,b/1.jpg,g", f"nevus,{far},", "mole,./a/0.bmp,g"
    )
    dataset = load_dataset(f"table:{table}")
    assert dataset.classes == ("mole", "nevus")
    assert dataset.labels.tolist() == [0, 1, 0]
    assert dataset.ids == ("b/1.jpg", far.as_posix(), "a/0.bmp")
    assert dataset.groups == ("g", far.as_posix(), "g")
    assert dataset.images.paths == (folder / "b/1.jpg", far, folder / "a/0.bmp")


def test_a_table_may_be_given_relative_to_the_working_folder(folder, monkeypatch):
    write_table(folder / "t.csv", "path,label", "b/1.jpg,mole")
    monkeypatch.chdir(folder)
    assert load_dataset("table:t.csv").ids == ("b/1.jpg",)


def test_a_table_with_a_byte_order_mark_is_read(folder):
    (folder / "t.csv").write_text("path,label\r\nb/1.jpg,mole\r\n", encoding="utf-8-sig")
    assert load_dataset(f"table:{folder / 't.csv'}").ids == ("b/1.jpg",)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["file,label", "b/1.jpg,x"], r"lacks the column path; its columns are file, label"),
        (["path;label", "b/1.jpg;x"], r"lacks the column path, label; its columns are path;label"),
        (["path,label"], r"holds no rows"),
        ([""], r"lacks the column path, label; its columns are none"),
        (["path,label", "b/1.jpg,x", ",x"], r"row 3 has no path"),
        (["path,label", "b/1.jpg, "], r"row 2 has no label"),
        (["path,label", "b/1.jpg,x", "b/9.jpg,x"], r"row 3 names .*b/9\.jpg, which is no file"),
        (["path,label", "b,x"], r"row 2 names .*b, which is no file"),
        (["path,label", "b/1.jpg,x", "", "b/../b/1.jpg,y"], r"rows 2 and 4 name one image"),
        (["path,label", "b/1.jpg,x,y"], r"row 2 has 3 cells for 2 columns"),
        (["path,label", '"b/1.jpg,x'], r"row 2 is not CSV"),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_why(folder, rows, says):
    table = write_table(folder / "t.csv", *rows)
    with pytest.raises(DataError, match=rf"t\.csv: {says}"):
        load_dataset(f"table:{table}")


def test_a_table_that_is_not_utf8_is_refused(folder):
    (folder / "t.csv").write_bytes("path,label\nnaïve.jpg,x\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv: not UTF-8 text; save it as CSV in UTF-8"):
        load_dataset(f"table:{folder / 't.csv'}")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv: cannot be read \(No such file"):
        load_dataset(f"table:{tmp_path / 't.csv'}")


def test_isic_classes_keep_their_order_and_lose_those_without_images(isic):
    dataset = load_dataset(f"isic2019:{isic}")
    assert dataset.classes == ("MEL", "NV")
    assert dataset.labels.tolist() == [1, 0, 1]


def test_isic_images_of_one_lesion_are_a_group_and_others_stand_alone(isic):
    dataset = load_dataset(f"isic2019:{isic}")
    assert dataset.ids == ("ISIC_1", "ISIC_2", "ISIC_3")
    assert dataset.groups == ("HAM_1", "ISIC_2", "HAM_1")


def replace_in(name, old, new):
    def damage(folder):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))

    return damage


def remove_images(folder):
    for path in sorted((folder / "ISIC_2019_Training_Input").iterdir())[1:]:
        path.unlink()


TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove_images, r"Input: lacks 2 images, first ISIC_2\.jpg"),
        (replace_in(TRUTH, "ISIC_2,1.0", "ISIC_2,0.0"), r"row 3 \(ISIC_2\) is not one 1\.0"),
        (replace_in(TRUTH, "ISIC_2,1.0,0.0", "ISIC_2,1.0,1.0"), r"row 3 \(ISIC_2\)"),
        (replace_in(TRUTH, "ISIC_2,1.0,0.0", "ISIC_2,1.0,0.3"), r"row 3 \(ISIC_2\)"),
        (replace_in(TRUTH, "ISIC_2,1.0,0.0", "ISIC_2,0.3,0.0"), r"row 3 \(ISIC_2\)"),
        (replace_in(TRUTH, "image,", "id,"), r"lacks the column image"),
        (replace_in(TRUTH, "ISIC_2", "ISIC_1"), r"'ISIC_1' occurs 2 times"),
        (replace_in(METADATA, "lesion_id", "lesion"), r"lacks the column lesion_id"),
        (replace_in(METADATA, "ISIC_3", "ISIC_4"), r"Metadata\.csv: lacks 1 image, first ISIC_3"),
        (lambda folder: (folder / METADATA).unlink(), r"Metadata\.csv: cannot be read"),
    ],
)
def test_an_isic_folder_that_cannot_be_used_says_why(isic, damage, says):
    damage(isic)
    with pytest.raises(DataError, match=says):
        load_dataset(f"isic2019:{isic}")


@pytest.mark.skipif(not SHARED.exists(), reason="the real images are not beside this checkout")
def test_real_isic_images_are_read():
    dataset = load_dataset(f"isic2019:{SHARED}")
    assert len(dataset) == 2465
    assert np.bincount(dataset.labels).tolist() == [578, 859, 244, 67, 494, 42, 74, 107]
    assert dataset.images.read(0).image.shape == (150, 200, 3)


def test_unknown_data_lists_the_forms():
    forms = ", ".join(loader.form for loader in DATASETS.values())
    with pytest.raises(UsageError, match=f"'mnist'; choose from {forms}"):
        load_dataset("mnist")


@pytest.mark.parametrize("spec", ["digits:x", "folder", "folder:", "table:"])
def test_a_form_that_is_not_followed_is_shown(spec):
    with pytest.raises(UsageError, match=f"'{spec}' must be written {spec.partition(':')[0]}"):
        load_dataset(spec)


def test_a_bare_path_gets_a_hint(folder, isic):
    table = write_table(folder / "t.csv", "path,label")
    for path, kind in ((folder, "folder"), (isic, "isic2019"), (table, "table")):
        with pytest.raises(UsageError, match=f"did you mean {kind}:{path}"):
            load_dataset(str(path))


def test_a_selection_keeps_every_image_with_its_own_facts():
    chosen = tiny().select(np.array([3, 0]))
    assert (chosen.ids, chosen.groups) == (("z", "w"), ("h", "g"))
    assert chosen.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(chosen.images.read(1).image, tiny().images.read(0).image)


def test_restriction_relabels_in_the_order_that_is_asked_for():
    two = tiny().restrict(["c", "b"])
    assert two.classes == ("c", "b")
    assert two.ids == ("x", "y", "z")
    assert two.labels.tolist() == [1, 0, 1]


def test_restriction_to_an_unknown_class_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown class 'd' of tiny; choose from a, b, c"):
        tiny().restrict(["a", "d"])


@pytest.mark.parametrize("classes", [[], ["a", "a"]])
def test_restriction_needs_each_class_once(classes):
    with pytest.raises(UsageError, match="once each"):
        tiny().restrict(classes)


def test_ids_are_unique():
    with pytest.raises(DataError, match="tiny: 'w' occurs 2 times"):
        tiny(ids=("w", "x", "w", "z"))


def test_every_image_has_a_group():
    with pytest.raises(UsageError, match="differ in number"):
        tiny(groups=("g",))


def test_a_file_is_hashed_by_its_bytes(tmp_path):
    path = save_image(tmp_path / "x.png")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert ImageFiles((path,)).read(0).hash == expected


def test_the_key_of_a_file_changes_with_its_content(tmp_path):
    path = save_image(tmp_path / "x.png")
    files = ImageFiles((path,))
    before = files.key(0)
    time = path.stat().st_mtime_ns
    assert files.key(0) == before
    path.write_bytes(path.read_bytes() + b"\0")
    os.utime(path, ns=(time, time))
    assert files.key(0) != before


def test_the_key_of_a_file_changes_with_its_time(tmp_path):
    path = save_image(tmp_path / "x.png")
    before = ImageFiles((path,)).key(0)
    os.utime(path, ns=(1, 1))
    assert ImageFiles((path,)).key(0) != before


def test_a_file_that_went_away_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read"):
        ImageFiles((tmp_path / "gone.png",)).key(0)


def test_selected_files_are_read_in_the_order_that_is_asked_for(tmp_path):
    paths = tuple(save_image(tmp_path / f"{shade}.png", shade) for shade in (10, 20, 30))
    chosen = ImageFiles(paths).select(np.array([2, 0]))
    assert [chosen.read(index).image[0, 0, 0] for index in range(len(chosen))] == [30, 10]


def test_a_folder_that_may_not_be_listed_is_named(folder, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(datasets.os, "scandir", refuse)
    with pytest.raises(DataError, match=r"set: cannot be read \(Permission denied\)"):
        load_dataset(f"folder:{folder}")


def test_unlabelled_images_come_from_files_and_folders_without_repeats(folder):
    dataset = unlabelled([folder / "b/2.PNG", folder / "b"], name="new")
    assert dataset.ids == (str(folder / "b/2.PNG"), str(folder / "b/1.jpg"))
    assert dataset.labels.tolist() == [0, 0]


@pytest.mark.parametrize(("place", "says"), [("no", "no such file"), ("empty", "holds no image")])
def test_unlabelled_places_without_images_are_named(tmp_path, place, says):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"{place}: {says}"):
        unlabelled([tmp_path / place], name="new")
