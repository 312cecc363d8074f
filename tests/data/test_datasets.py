import hashlib
import io
import os
import tempfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from misgiving.data.datasets import DATASETS, load_dataset, npz
from misgiving.data.datasets.dataset import Dataset, ImageArray, ImageFiles
from misgiving.data.datasets.dermoscopy import published_counts
from misgiving.data.datasets.folders import image_names
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.files import write_csv

SHARED = Path(__file__).parents[3] / "shared" / "data" / "isic2019-mini"
CLASSES = ["MEL", "NV", "BCC", "UNK"]


def save_image(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 20, 30)).save(path)
    return path


def write_table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8", errors="surrogateescape")
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


def test_a_folder_gives_a_class_for_each_sub_folder(folder):
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.classes == ("a", "b")
    assert dataset.ids == ("a/0.bmp", "a/4.TIFF", "a/deep/er/3.webp", "b/1.jpg", "b/2.PNG")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.groups == dataset.ids


def test_other_and_hidden_files_are_no_images(folder):
    for name in ("b/notes.txt", "b/.hidden.jpg", "b/.thumbs/1.jpg", ".git/x.jpg"):
        save = folder / name
        save.parent.mkdir(exist_ok=True)
        save.write_text("nothing")
    assert len(load_dataset(f"folder:{folder}")) == 5


def test_a_link_that_leads_round_in_a_circle_is_not_followed(folder):
    (folder / "a" / "again").symlink_to(folder / "a")
    assert len(load_dataset(f"folder:{folder}")) == 5


def test_a_link_to_a_folder_above_is_not_followed(folder, tmp_path):
    save_image(tmp_path / "elsewhere" / "5.png")
    (tmp_path / "elsewhere" / "up").symlink_to(folder)
    for place in ("a/up", "b/inner/up"):
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).symlink_to(folder)
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    found = load_dataset(f"folder:{folder}")
    assert len(found) == 6
    assert found.ids[-1] == "c/5.png"


def test_images_of_linked_folders_are_found_after_the_others(folder, tmp_path):
    before = [name for name in load_dataset(f"folder:{folder}").ids if name[0] == "a"]
    for name in ("y/1.png", "y/deep/2.png", "x/3.png"):
        save_image(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "x" / "other").symlink_to(tmp_path / "elsewhere" / "y")
    (folder / "a" / "0").symlink_to(tmp_path / "elsewhere" / "x")
    found = [name for name in load_dataset(f"folder:{folder}").ids if name[0] == "a"]
    linked = ["a/0/3.png", "a/0/other/1.png", "a/0/other/deep/2.png"]
    assert found == [*before, *linked]


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
        (empty_class_folder, r"set/c: .*no images \(.*png.*\); add some or remove it"),
        (rename_with_bytes_that_are_no_text, r"not UTF-8; rename the file"),
    ],
)
def test_an_unusable_folder_is_refused_with_the_reason_and_the_remedy(folder, damage, says):
    damage(folder)
    with pytest.raises(DataError, match=says):
        load_dataset(f"folder:{folder}")


def test_images_to_predict_are_listed_once_under_their_first_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    names = image_names([Path("a"), Path("b/../a"), folder / "a", Path("b/1.jpg")])
    assert names == [*image_names([Path("a")]), "b/1.jpg"]


@pytest.mark.parametrize("kind", ["folder", "isic2019"])
@pytest.mark.parametrize(
    ("place", "says"), [("x/none", "no such folder"), ("file", "not a folder")]
)
def test_a_folder_that_is_none_is_refused(tmp_path, kind, place, says):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"{place}: .*{says}; give the folder"):
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


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["file,label", "b/1.jpg,x"], r"needs the column path once; its columns are file, label"),
        (["path;label", "b/1.jpg;x"], r"needs the column path, label once"),
        (["path,label,label", "b/1.jpg,x,y"], r"needs the column label once"),
        (["path,label, path ", "b/1.jpg,x,y"], r"needs the column path once"),
        (["path,label"], r".*no rows"),
        ([""], r"not a table in UTF-8"),
        (["path,label", "b/1.jpg,x", ",x"], r"row 3 has no path"),
        (["path,label", "b/1.jpg, "], r"row 2 has no label"),
        (["path,label", "b/1.jpg,x", "b/../b/1.jpg,y"], r".*b/1\.jpg is in 2 rows"),
        (["path,label", "b/1.jpg,x,y"], r"not a table in UTF-8"),
        (["path,label", "b/1.jpg"], r"row 2 has too few cells"),
        (["path,label", '"b/1.jpg,x'], r"not a table in UTF-8"),
        (["path,label", "na\udcefve.jpg,x"], r"not a table in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_says_where_and_why(folder, rows, says):
    table = write_table(folder / "t.csv", *rows)
    with pytest.raises(DataError, match=rf"t\.csv: {says}"):
        load_dataset(f"table:{table}")


def test_a_table_that_was_made_of_our_lists_finds_images_whose_name_is_a_formula(folder):
    (folder / "=1.jpg").write_bytes((folder / "b" / "1.jpg").read_bytes())
    write_csv(folder / "t.csv", ("path", "label"), [("=1.jpg", "+x"), ("b/1.jpg", "y")])
    found = load_dataset(f"table:{folder / 't.csv'}")
    assert found.ids == ("=1.jpg", "b/1.jpg")
    assert found.classes == ("+x", "y")


def test_isic_classes_keep_their_order_and_lose_those_without_images(isic):
    dataset = load_dataset(f"isic2019:{isic}")
    assert dataset.classes == ("MEL", "NV")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.ids == ("ISIC_1", "ISIC_2", "ISIC_3")
    assert dataset.groups == ("HAM_1", "ISIC_2", "HAM_1")


def test_isic_images_of_one_patient_are_a_group_where_the_patient_is_named(isic):
    assert load_dataset(f"isic2019:{isic}").group_columns == ("lesion_id",)
    write_table(
        isic / "ISIC_2019_Training_Metadata.csv",
        "image,lesion_id,patient_id",
        *("ISIC_1,HAM_1,IP_1", "ISIC_2,HAM_2,IP_1", "ISIC_3,HAM_3,IP_2"),
    )
    dataset = load_dataset(f"isic2019:{isic}")
    assert dataset.groups == ("IP_1", "IP_1", "IP_2")
    assert dataset.group_columns == ("patient_id", "lesion_id")


def test_a_table_groups_by_patient_and_does_not_describe_images_by_it(folder):
    table = write_table(
        folder / "t.csv",
        *("path,label,patient,lesion,sex", "b/1.jpg,x,7,1,f", "a/0.bmp,y,7,2,f"),
        *("a/4.TIFF,y,,,m",),
    )
    dataset = load_dataset(f"table:{table}")
    assert dataset.groups == ("7", "7", "a/4.TIFF")
    assert dataset.group_columns == ("patient", "lesion")
    assert list(dataset.metadata) == ["sex"]


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
        (replace_in(TRUTH, "ISIC_2,1.0", "ISIC_2,0.0"), r"row 3 \(ISIC_2\) .*1\.0"),
        (replace_in(TRUTH, "ISIC_2,1.0,0.0", "ISIC_2,1.0,1.0"), r"row 3 \(ISIC_2\)"),
        (replace_in(TRUTH, "ISIC_2,1.0,0.0", "ISIC_2,1.0,0.3"), r"row 3 \(ISIC_2\)"),
        (replace_in(TRUTH, "ISIC_2,1.0,0.0", "ISIC_2,0.3,0.0"), r"row 3 \(ISIC_2\)"),
        (replace_in(TRUTH, "image,", "id,"), r"needs the column image once"),
        (replace_in(TRUTH, "ISIC_2", "ISIC_1"), r"'ISIC_1' occurs 2 times"),
        (replace_in(METADATA, "lesion_id", "lesion"), r"needs the column lesion_id once"),
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


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("mnist", ", ".join(loader.form for loader in DATASETS.values())),
        ("digits:x", "digits"),
        ("folder", "folder:FOLDER"),
        ("folder:", "folder:FOLDER"),
        ("table:", "table:FILE"),
        ("{folder}", "folder:{folder}"),
        ("{isic}", "isic2019:{isic}"),
        ("{folder}/t.csv", "table:{folder}/t.csv"),
    ],
)
def test_data_that_is_not_named_in_a_known_form_gets_a_hint(folder, isic, spec, hint):
    write_table(folder / "t.csv", "path,label")
    with pytest.raises(UsageError, match=hint.format(folder=folder, isic=isic)):
        load_dataset(spec.format(folder=folder, isic=isic))


def test_an_unknown_class_and_a_repeated_id_are_named():
    with pytest.raises(UsageError, match="'d'"):
        tiny().restrict(["a", "d"])
    with pytest.raises(DataError, match="'w'"):
        tiny(ids=("w", "x", "w", "z"))


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


HAM = "HAM10000_metadata.csv"
HAM_HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"
HAM_ROWS = (
    "HAM_1,ISIC_1,nv,histo,80.0,male,scalp",
    "HAM_2,ISIC_2,mel,histo,,female,back",
    "HAM_1,ISIC_3,nv,histo,80.0,male,scalp",
)


@pytest.fixture
def ham(tmp_path):
    """Three images in the official layout, of two lesions, one image in the second part."""
    folder = tmp_path / "ham"
    for part, name in ((1, "ISIC_1"), (2, "ISIC_2"), (1, "ISIC_3")):
        save_image(folder / f"HAM10000_images_part_{part}" / f"{name}.jpg")
    write_table(folder / HAM, HAM_HEADER, *HAM_ROWS)
    return folder


def test_ham10000_is_read_with_its_lesions_and_the_order_of_isic(ham):
    dataset = load_dataset(f"ham10000:{ham}")
    assert dataset.classes == ("MEL", "NV")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.ids == ("ISIC_1", "ISIC_2", "ISIC_3")
    assert dataset.groups == ("HAM_1", "HAM_2", "HAM_1")
    assert dataset.images.paths[1] == ham / "HAM10000_images_part_2" / "ISIC_2.jpg"


def test_ham10000_from_dataverse_is_read_as_the_table_with_commas_is(ham):
    expected = load_dataset(f"ham10000:{ham}")
    lines = [",".join(f'"{cell}"' for cell in row.split(",")) for row in (HAM_HEADER, *HAM_ROWS)]
    (ham / HAM).unlink()
    (ham / "HAM10000_metadata").write_text("\n".join(lines).replace(",", "\t") + "\n")
    found = load_dataset(f"ham10000:{ham}")
    assert (found.ids, found.groups) == (expected.ids, expected.groups)
    assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("ham10000_images_part_1", "ISIC_1.JPG"),
        ("images", "ISIC_1.jpg"),
        ("Images", "isic_1.jpg"),
        (".", "ISIC_1.jpg"),
    ],
)
def test_ham10000_images_are_found_where_mirrors_put_them(ham, folder, name):
    path = ham / "HAM10000_images_part_1" / "ISIC_1.jpg"
    (ham / folder).mkdir(exist_ok=True)
    path.rename(ham / folder / name)
    assert load_dataset(f"ham10000:{ham}").images.paths[0] == ham / folder / name


@pytest.mark.parametrize("name", ["HAM10000_segmentations_lesion_tschandl", "masks"])
def test_ham10000_masks_are_found(ham, name):
    assert load_dataset(f"ham10000:{ham}").masks is None
    (ham / name).mkdir()
    assert load_dataset(f"ham10000:{ham}").masks == ham / name


def with_tabs(*changes):
    def damage(folder):
        replace_in(HAM, ",", "\t")(folder)
        for change in changes:
            change(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / HAM).unlink(), r"ham: lacks HAM10000_metadata\.csv"),
        (replace_in(HAM, "lesion_id", "lesion"), r"metadata\.csv: needs the column lesion_id once"),
        (replace_in(HAM, ",nv,", ",naevus,"), r"row 2 has the dx 'naevus', not one of mel"),
        (replace_in(HAM, "ISIC_3", "ISIC_1"), r"'ISIC_1' occurs 2 times"),
        (replace_in(HAM, "ISIC_3", "ISIC_9"), r"ham: lacks 1 image, first ISIC_9"),
        (lambda folder: (folder / HAM).write_text(""), r"metadata\.csv: not a table"),
        (with_tabs(replace_in(HAM, "dx\t", "d\t")), r"metadata\.csv: needs the column dx"),
        (with_tabs(replace_in(HAM, "\tback", "")), r"row 3 has too few cells"),
    ],
)
def test_a_ham10000_folder_that_cannot_be_used_says_why(ham, damage, says):
    damage(ham)
    with pytest.raises(DataError, match=says) as failure:
        load_dataset(f"ham10000:{ham}")
    assert "\n" not in str(failure.value)


PARTS = ("train", "val", "test")


def packed_arrays(size=5, counts=(4, 2, 3), channels=(3,)):
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in zip(PARTS, counts, strict=True):
        shape = (count, size, size, *channels)
        arrays[f"{part}_images"] = generator.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = generator.integers(0, 7, (count, 1), dtype=np.uint8)
    return arrays


def all_of(arrays, kind):
    return np.concatenate([arrays[f"{part}_{kind}"] for part in PARTS])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_packed_images_are_those_that_numpy_reads(tmp_path, save, channels):
    arrays = packed_arrays(channels=channels)
    save(tmp_path / "set.npz", **arrays)
    dataset = load_dataset(f"medmnist:{tmp_path / 'set.npz'}")
    for index, expected in enumerate(all_of(arrays, "images")):
        hashed = dataset.images.read(index)
        pixels = expected if channels else np.stack([expected] * 3, axis=-1)
        np.testing.assert_array_equal(hashed.image, pixels)
        assert hashed.hash == hashlib.sha256(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("block", [1, 1000])
def test_compressed_images_are_read_in_any_order_and_from_any_thread(tmp_path, monkeypatch, block):
    monkeypatch.setattr(npz, "BLOCK", block)
    arrays = packed_arrays(size=9, counts=(40, 0, 7))
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    images = load_dataset(f"medmnist:{tmp_path / 'set.npz'}").images
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(47), 3))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: images.read(index).image, order.tolist()))
    np.testing.assert_array_equal(np.stack(found), all_of(arrays, "images")[order])


def test_the_key_of_a_packed_image_changes_with_the_file_and_the_place(tmp_path):
    np.savez(tmp_path / "set.npz", **packed_arrays())
    images = load_dataset(f"medmnist:{tmp_path / 'set.npz'}").images
    keys = [images.key(index) for index in range(9)]
    assert len(set(keys)) == 9
    assert images.select(np.array([4])).key(0) == keys[4]
    os.utime(tmp_path / "set.npz", ns=(1, 1))
    assert images.key(0) != keys[0]


@pytest.mark.parametrize(
    ("name", "classes", "augmentation"),
    [
        ("dermamnist_64.npz", "AKIEC BCC BKL DF MEL NV VASC", AugmentationSettings()),
        ("pathmnist.npz", "ADI BACK DEB LYM MUC MUS NORM", AugmentationSettings.none()),
        ("other.npz", "0 1 2 3 4 5 6", AugmentationSettings.none()),
    ],
)
def test_packed_sets_have_the_names_and_settings_that_suit_them(
    tmp_path, name, classes, augmentation
):
    arrays = packed_arrays(counts=(7, 2, 1))
    arrays["train_labels"] = np.arange(7)
    np.savez(tmp_path / name, **arrays)
    dataset = load_dataset(f"medmnist:{tmp_path / name}")
    assert dataset.classes == tuple(classes.split())
    assert dataset.augmentation == augmentation
    assert dataset.preprocessing == Preprocessing(image_size=5, crop=1.0, color_constancy="none")
    np.testing.assert_array_equal(
        dataset.preprocessing(dataset.images.read(0).image), arrays["train_images"][0]
    )


def changed(name, change):
    def damage(arrays):
        arrays[name] = change(arrays[name])

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda arrays: arrays.pop("val_labels"), "lacks the array val_labels; its arrays are tr"),
        (lambda arrays: arrays.clear(), "lacks the array train_images; its arrays are none"),
        (changed("val_images", lambda a: a / 255), ".*val_images float64"),
        (changed("val_images", lambda a: a[..., :2]), r".*\(2, 5, 5, 2\)"),
        (changed("val_images", lambda a: a[:, :4]), r".*\(2, 4, 5, 3\)"),
        (changed("val_images", lambda a: a[:, :4, :4]), r".*\(2, 4, 4, 3\)"),
        (changed("val_images", np.asfortranarray), "val_images must be numbers, saved in C order"),
        (changed("val_images", lambda a: a.astype(object)), "val_images must be numbers"),
        (changed("val_labels", lambda a: a.astype(object)), "val_labels must be numbers"),
        (changed("val_labels", lambda a: a.astype(float)), "val_labels .* float64"),
        (changed("val_images", lambda a: a[:1]), r"val_labels must be 1 integers.*\(2, 1\)"),
        (changed("val_labels", lambda a: np.repeat(a, 2, axis=1)), r"val_labels .*\(2, 2\)"),
        (changed("val_labels", lambda a: a[0, 0]), r"val_labels .*\(\)"),
        (changed("val_labels", lambda a: a * 0 + 7), "a label of . to 7 is not one of 7"),
        (changed("val_labels", lambda a: a.astype(int) - 9), "a label of -"),
    ],
)
def test_a_packed_file_that_cannot_be_used_says_why(tmp_path, damage, says):
    arrays = packed_arrays()
    damage(arrays)
    path = tmp_path / "dermamnist.npz"
    np.savez_compressed(path, **arrays)
    with pytest.raises(DataError, match=rf"dermamnist\.npz: {says}") as failure:
        load_dataset(f"medmnist:{path}")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99, None])
def test_a_packed_file_that_is_cut_off_or_another_is_refused(tmp_path, share):
    np.savez_compressed(tmp_path / "set.npz", **packed_arrays(size=40))
    data = (tmp_path / "set.npz").read_bytes()
    cut_off = b"PK\x03\x04" + b"\0" * 200 if share is None else data[: int(share * len(data))]
    (tmp_path / "set.npz").write_bytes(cut_off)
    with pytest.raises(DataError, match=r"set\.npz: "):
        load_dataset(f"medmnist:{tmp_path / 'set.npz'}")


def read_all(spec):
    dataset = load_dataset(spec)
    for index in range(len(dataset)):
        dataset.images.read(index)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_of_a_packed_file_never_give_more_than_one_line(tmp_path, seed):
    np.savez_compressed(tmp_path / "set.npz", **packed_arrays(size=12))
    data = bytearray((tmp_path / "set.npz").read_bytes())
    generator = np.random.default_rng(seed)
    for place in generator.integers(0, len(data), 30):
        data[place] ^= int(generator.integers(1, 256))
    (tmp_path / "set.npz").write_bytes(data)
    with pytest.raises(DataError) as failure:
        read_all(f"medmnist:{tmp_path / 'set.npz'}")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "total"),
    [("isic2019:x", 25331), ("ham10000:x", 10015), ("medmnist:x/dermamnist_64.npz", 10015)],
)
def test_published_counts_add_up_to_the_published_total(name, total):
    assert sum(published_counts(name).values()) == total


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["b/1.jpg,x", "b/2.PNG,x"], "fewer than two classes"),
        (["b/1.jpg,x", "b/2.PNG,x", "a/0.bmp,y"], "class 'y' has one image"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_named(folder, rows, says):
    table = write_table(folder / "t.csv", "path,label", *rows)
    dataset = load_dataset(f"table:{table}")
    with pytest.raises(DataError, match=rf"t\.csv: .*{says}"):
        dataset.check_class_sizes()


def write_isic_2019_of_full_size(folder):
    """25,331 links to one image, in the published layout and with the published counts."""
    counts = published_counts("isic2019:")
    source = save_image(folder / "one.jpg")
    inputs = folder / "ISIC_2019_Training_Input"
    inputs.mkdir()
    names = [*counts, "UNK"]
    truth, metadata = [f"image,{','.join(names)}"], ["image,age_approx,lesion_id,sex"]
    for number, name in enumerate(name for name, count in counts.items() for _ in range(count)):
        identity = f"ISIC_{number:07d}"
        os.symlink(source, f"{inputs}/{identity}.jpg")  # noqa: PTH211  # pathlib takes much longer
        truth.append(f"{identity},{','.join('1.0' if name == c else '0.0' for c in names)}")
        metadata.append(f"{identity},50.0,HAM_{number // 3:07d},male")
    write_table(folder / TRUTH, *truth)
    write_table(folder / METADATA, *metadata)


def recording(call, places):
    def recorded(*args, **kwargs):
        places.append(args[0])
        return call(*args, **kwargs)

    return recorded


@pytest.fixture
def in_memory():
    """A folder for many files, in memory where that is at hand; it is removed at once."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def test_isic_2019_of_full_size_is_read_without_opening_images_in_little_memory(
    in_memory, monkeypatch
):
    write_isic_2019_of_full_size(in_memory)
    touched = []
    monkeypatch.setattr(os, "stat", recording(os.stat, touched))
    monkeypatch.setattr(io, "open", recording(io.open, touched))
    tracemalloc.start()
    dataset = load_dataset(f"isic2019:{in_memory}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.bincount(dataset.labels).tolist() == list(published_counts("isic2019:").values())
    assert len(set(dataset.groups)) == 8444
    assert len(touched) < 20
    assert peak < 60e6
