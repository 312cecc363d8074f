import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from coloured import dataset_of
from PIL import Image
from pyarrow import parquet
from sklearn.datasets import load_digits

from misgiving.data.datasets import FORMS, load_dataset, unlabelled_images, write_sample
from misgiving.data.decoding import ignored_sentences
from misgiving.errors import DataError, UsageError
from misgiving.files import sha256_of

TRUTH, METADATA = "ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"


def save_image(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (shade, 20, 30)).save(path)
    return path


def write_table(path, *rows):
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
    (tmp_path / "ISIC_2019_Training_Input").mkdir()
    for number in (1, 2, 3):  # no image is opened
        (tmp_path / "ISIC_2019_Training_Input" / f"ISIC_{number}.jpg").touch()
    truth = ("ISIC_1,0.0,1.0,0.0,0.0", "ISIC_2,1.0,0.0,0.0,0.0", "ISIC_3,0.0,1.0,0.0,0.0")
    write_table(tmp_path / TRUTH, "image,MEL,NV,BCC,UNK", *truth)
    described = ("ISIC_1,50,,HAM_1,male", "ISIC_2,,,,", "ISIC_3,40,,HAM_1,female")
    header = "image,age_approx,anatom_site_general,lesion_id,sex"
    write_table(tmp_path / METADATA, header, *described)
    return tmp_path


def tiny(**changes):
    fields = {
        **{"name": "tiny", "classes": ("a", "b", "c"), "labels": np.array([0, 1, 2, 1])},
        **{"ids": ("w", "x", "y", "z"), "groups": ("g", "h", "i", "h")},
    }
    return dataset_of(np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3), **{**fields, **changes})


def test_digits_are_dark_ink_on_white_paper():
    bunch = load_digits()
    image = load_dataset("digits").images[5].read().image
    for row, column in np.ndindex(8, 8):
        ink = bunch.images[5][row][column]
        assert image[row, column].tolist() == [round(255 - ink * 255 / 16)] * 3


def test_the_sample_and_the_new_images_are_the_digits_in_class_folders(tmp_path):
    for name in ("photos", "new"):
        write_sample(tmp_path / name, new=name == "new")
    photos, new = (load_dataset(f"folder:{tmp_path / name}") for name in ("photos", "new"))
    assert (len(photos), len(new)) == (1000, 797)
    assert {Path(name).stem for name in photos.ids}.isdisjoint(Path(name).stem for name in new.ids)
    digits = load_dataset("digits")
    for index in (0, 500, 999):
        number = digits.ids.index(Path(photos.ids[index]).stem)
        assert photos.labels[index] == digits.labels[number]
        assert (photos.images[index].read().image == digits.images[number].read().image).all()
    with pytest.raises(UsageError):
        write_sample(tmp_path / "photos")


def test_a_folder_gives_a_class_for_each_sub_folder_and_no_image_for_other_files(folder):
    for name in ("b/notes.txt", "b/.hidden.jpg", "b/.thumbs/1.jpg", ".git/x.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("nothing")
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.classes == ("a", "b")
    assert dataset.ids == ("a/0.bmp", "a/4.TIFF", "a/deep/er/3.webp", "b/1.jpg", "b/2.PNG")
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1]
    assert dataset.groups == ("",) * 5
    assert dataset.augmentation == "light"


def test_what_is_ignored_of_a_folder_is_counted_and_a_class_without_images_left_out(folder):
    for name in ("a/1.HEIX", "a/deep/2.heix", "b/noname", "b/.hidden", "c/3.heix", "list.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    save_image(folder / "astray.png")
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.ignored == {".heix": 3, "": 1, ".txt": 1, ".png in no class folder": 1}
    assert (dataset.classes, dataset.empty) == (("a", "b"), ("c",))
    assert unlabelled_images([folder / "a", folder / "b"], name="new").ignored == {
        ".heix": 2,
        "": 1,
    }
    with pytest.raises(DataError, match=r"ignored: 1 \.heix; add some"):
        unlabelled_images([folder / "c"], name="new")
    sentence = "ignored: 9 .a, 7 .b, 6 .c, 5 .d, 4 without a suffix, 4 others"
    counts = {".b": 7, "": 4, ".e": 3, ".d": 5, ".c": 6, ".a": 9, ".f": 1}
    assert ignored_sentences(counts) == [sentence]
    assert "the extra heif" in ignored_sentences({".heic": 1})[0]


def test_folders_of_sets_are_a_split_of_the_class_folders_in_them(folder):
    for name in ("train/a", "train/b", "Valid/a", "test/b", "test/c"):
        save_image(folder / "sets" / name / "1.png")
    save_image(folder / "sets" / "train" / "b" / "2.png")
    dataset = load_dataset(f"folder:{folder / 'sets'}")
    assert dataset.classes == ("a", "b", "c")
    rows = zip(dataset.ids, dataset.labels.tolist(), dataset.sets, strict=True)
    assert {*rows} == {
        ("Valid/a/1.png", 0, "validation"),
        ("test/b/1.png", 1, "test"),
        ("test/c/1.png", 2, "test"),
        ("train/a/1.png", 0, "train"),
        ("train/b/1.png", 1, "train"),
        ("train/b/2.png", 1, "train"),
    }
    assert dataset.select(np.array([2, 0])).sets == ("test", "validation")


def test_links_to_other_folders_are_followed_once_and_none_to_a_folder_above(folder, tmp_path):
    save_image(tmp_path / "elsewhere" / "deep" / "5.png")
    (tmp_path / "elsewhere" / "up").symlink_to(folder)
    (tmp_path / "elsewhere" / "deep" / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "c").symlink_to(tmp_path / "elsewhere")
    dataset = load_dataset(f"folder:{folder}")
    assert len(dataset) == 6
    assert dataset.ids[-1] == "c/deep/5.png"


def test_images_to_predict_are_listed_once_under_their_first_name(folder, monkeypatch):
    monkeypatch.chdir(folder)
    places = [Path("a"), Path("b/../a"), folder / "a", Path("b/1.jpg")]
    names = unlabelled_images(places, name="new").ids
    assert names == ("a/0.bmp", "a/4.TIFF", "a/deep/er/3.webp", "b/1.jpg")
    assert unlabelled_images([Path()], name="new").ids[0] == "a/0.bmp"


def test_an_unusable_folder_is_named(folder):
    (folder / "c").mkdir()
    (folder / "b/1.jpg").rename(folder / "c" / os.fsdecode(b"\xff.jpg"))
    with pytest.raises(DataError, match="not UTF-8"):
        load_dataset(f"folder:{folder}")
    for name in ("train", "Test"):
        save_image(folder / "sets" / name / "a" / "1.png")
    # without class folders, not there, or with one class in the folders of sets
    for place in (folder / "b", folder / "moved", folder / "sets"):
        with pytest.raises(DataError, match=f"{place}: "):
            load_dataset(f"folder:{place}")


def test_a_table_names_images_from_its_own_folder_on_and_describes_them(folder, tmp_path):
    far = save_image(tmp_path / "far.png")
    table = write_table(
        folder / "t.csv",
        "label,path,patient,lesion,scanner",
        f"mole,b/1.jpg,7,1,old\n  \nnevus,{far},,,new\nmole,./a/0.bmp,7,2,new",
        "'+x,'=1.jpg,9,3,old",  # as our lists write what would be a formula
    )
    dataset = load_dataset(f"table:{table}")
    assert dataset.classes == ("+x", "mole", "nevus")
    assert dataset.labels.tolist() == [1, 2, 1, 0]
    assert dataset.ids == ("b/1.jpg", far.as_posix(), "a/0.bmp", "=1.jpg")
    assert dataset.groups == ("7", "", "7", "9")
    assert dataset.group_columns == ("patient", "lesion")
    assert tuple(image.path for image in dataset.images[:3]) == (
        folder / "b/1.jpg",
        far,
        folder / "a/0.bmp",
    )
    assert dataset.metadata == {"scanner": ("old", "new", "new", "old")}
    assert dataset.select(np.array([2, 0])).metadata == {"scanner": ("new", "old")}
    assert dataset.sets == ()


def test_a_column_set_of_a_table_is_a_split_and_no_metadata(folder):
    rows = [f"{index}.png,{'xy'[index % 2]}," for index in range(4)]
    named = [row + name for row, name in zip(rows, ("Train", "dev", "test", "tune"), strict=True)]
    dataset = load_dataset(f"table:{write_table(folder / 't.csv', 'path,label,set', *named)}")
    assert dataset.sets == ("train", "validation", "test", "tune")
    assert dataset.metadata == {}
    empty = write_table(folder / "t.csv", "path,label,set", *rows)
    assert load_dataset(f"table:{empty}").sets == ()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["file,label", "b/1.jpg,x"], "path"),
        (["path,label,label", "b/1.jpg,x,y"], "label"),
        (["path,label"], "no rows"),
        (["path,label", "b/1.jpg,x", ",x"], "row 3"),
        (["path,label", "b/1.jpg,x", "b/../b/1.jpg,y"], "'b/1.jpg' occurs 2 times"),
        (["path,label", '"b/1.jpg,x'], ""),
        (["path,label,set", "b/1.jpg,x,train", "a/0.bmp,y,old"], "row 3 has the set 'old'"),
        (["path,label", "na\udcefve.jpg,x"], "UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_the_place(folder, rows, reason):
    table = write_table(folder / "t.csv", *rows)
    with pytest.raises(DataError) as failure:
        load_dataset(f"table:{table}")
    assert reason in str(failure.value).partition("t.csv: ")[2]


def test_other_tables_in_a_folder_of_class_folders_do_not_matter(folder):
    write_table(folder / "metadata.csv", "image,age", "1,50")
    parquet.write_table(pa.table({"age": [50]}), folder / "ages.parquet")
    assert load_dataset(f"folder:{folder}").classes == ("a", "b")
    (folder / "ages.parquet").write_text("nothing")
    with pytest.raises(DataError, match=r"ages\.parquet: missing or damaged"):
        load_dataset(f"folder:{folder}")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_as_hugging_face_lays_it_out_has_its_labels_in_a_table(folder, name):
    columns = ("file_name", "label", "patient")
    rows = [("b/1.jpg", "mole", "ann"), ("a/0.bmp", "nevus", "ann")]
    if name == "metadata.csv":
        lines = map(",".join, [columns, *rows])
    else:
        lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
    write_table(folder / name, *lines)
    for spec in (f"folder:{folder}", f"table:{folder / name}"):
        dataset = load_dataset(spec)
        assert (dataset.ids, dataset.classes) == (("b/1.jpg", "a/0.bmp"), ("mole", "nevus"))
        assert (dataset.labels.tolist(), dataset.groups) == ([0, 1], ("ann", "ann"))
        unlisted = {f".{kind} not in the table": 1 for kind in ("tiff", "webp", "png")}
        assert dataset.ignored == (unlisted if spec.startswith("folder") else {})
        assert tuple(image.path for image in dataset.images) == (
            folder / "b/1.jpg",
            folder / "a/0.bmp",
        )


def write_parquet(path, images, labels):
    """As `Dataset.to_parquet` of Hugging Face's `datasets` 5.2 does."""
    cells = pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    kind = {"names": ["nevus", "mole"], "_type": "ClassLabel"}
    described = {"info": {"features": {"image": {"_type": "Image"}, "label": kind}}}
    table = pa.table({"image": cells, "label": pa.array(labels, pa.int64())})
    table = table.replace_schema_metadata({"huggingface": json.dumps(described)})
    parquet.write_table(table, path, row_group_size=2)


def test_parquet_files_hold_images_whose_classes_are_named_in_their_schema(tmp_path):
    files = [save_image(tmp_path / f"{shade}.png", shade) for shade in range(0, 250, 50)]
    cells = [{"bytes": file.read_bytes(), "path": "x.png"} for file in files]
    cells[1] = {"bytes": None, "path": str(files[1])}  # images that were not embedded
    place = tmp_path / "shards"
    place.mkdir()
    write_parquet(place / "train-00000-of-00002.parquet", cells[:3], [1, 0, 0])
    write_parquet(place / "train-00001-of-00002.parquet", cells[3:], [1, 1])
    dataset = load_dataset(f"folder:{place}")
    assert dataset.classes == ("mole", "nevus")
    assert dataset.labels.tolist() == [0, 1, 1, 0, 0]
    assert dataset.sets == ("train",) * 5
    shard = place / "validation-00000-of-00001.parquet"
    (place / "train-00001-of-00002.parquet").rename(shard)
    assert load_dataset(f"folder:{place}").sets == ("train",) * 3 + ("validation",) * 2
    shard.rename(place / "train-00001-of-00002.parquet")
    chosen = dataset.select(np.array([4, 2, 1])).images
    for index, file in enumerate([files[4], files[2], files[1]]):
        hashed = chosen[index].read()
        assert hashed.hash == sha256_of(file.read_bytes())
        assert hashed.image[0, 0, 0] == int(file.stem)
    keys = [dataset.images[index].key() for index in range(5)]
    assert len({*keys}) == 5
    files[1].write_bytes(files[0].read_bytes())  # what is prepared is prepared again
    changed = [dataset.images[index].key() != key for index, key in enumerate(keys)]
    assert changed == [False, True, False, False, False]
    write_parquet(tmp_path / "t.parquet", cells[:2], [0, -1])  # -1: the label is not published
    with pytest.raises(DataError):
        load_dataset(f"table:{tmp_path / 't.parquet'}")


@pytest.mark.parametrize(
    "rows", [["b/1.jpg,x", "b/2.PNG,x"], ["b/1.jpg,x", "b/2.PNG,x", "a/0.bmp,y"]]
)
def test_a_table_that_cannot_be_learnt_from_is_refused(folder, rows):
    dataset = load_dataset(f"table:{write_table(folder / 't.csv', 'path,label', *rows)}")
    with pytest.raises(DataError):
        dataset.check_class_sizes()


def test_isic_classes_keep_their_order_and_lesions_are_groups(isic):
    dataset = load_dataset(f"isic2019:{isic}")
    assert dataset.classes == ("MEL", "NV")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.ids == ("ISIC_1", "ISIC_2", "ISIC_3")
    assert dataset.groups == ("HAM_1", "", "HAM_1")
    assert (dataset.group_columns, dataset.augmentation) == (("lesion_id",), "dermoscopy")
    rows = ("ISIC_1,HAM_1,IP_1", "ISIC_2,HAM_2,IP_1", "ISIC_3,HAM_3,IP_2")
    write_table(isic / METADATA, "image,lesion_id,patient_id", *rows)
    assert load_dataset(f"isic2019:{isic}").groups == ("IP_1", "IP_1", "IP_2")


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("mnist", ", ".join(form for form, _ in FORMS.values())),
        ("digits:x", "write digits$"),
        ("folder", "write folder:FOLDER$"),
        (".", r"write folder:\.$"),
        ("table:", "write table:FILE$"),
    ],
)
def test_data_that_is_not_named_in_a_known_form_gets_a_hint(spec, hint):
    with pytest.raises(UsageError, match=hint):
        load_dataset(spec)


def test_a_selection_keeps_the_facts_of_images_and_a_restriction_relabels_in_the_order_asked_for():
    chosen = tiny().select(np.array([3, 0]))
    assert (chosen.ids, chosen.groups, chosen.labels.tolist()) == (("z", "w"), ("h", "g"), [1, 0])
    np.testing.assert_array_equal(chosen.images[1].read().image, tiny().images[0].read().image)
    two = tiny().restrict(["c", "b"])
    assert (two.classes, two.ids, two.labels.tolist()) == (("c", "b"), ("x", "y", "z"), [1, 0, 1])
    with pytest.raises(UsageError):
        tiny().restrict(["a", "d"])
    with pytest.raises(DataError):
        tiny(ids=("w", "x", "w", "z"))


def test_prepared_images_are_aligned_with_a_models_classes_by_name(images):
    aligned, left_out = images.align(("c", "x", "a"))
    assert left_out == 8
    assert aligned.classes == ("c", "x", "a")
    for name, label in zip(aligned.ids, aligned.labels, strict=True):
        original = images.classes[images.labels[images.ids.index(name)]]
        assert aligned.classes[label] == original
    with pytest.raises(DataError):
        images.align(("x", "y"))


HAM = "HAM10000_metadata.csv"
HAM_ROWS = (
    "lesion_id,image_id,dx,dx_type,age,sex,localization",
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
    write_table(folder / HAM, *HAM_ROWS)
    return folder


@pytest.mark.parametrize("from_dataverse", [False, True])
def test_ham10000_is_read_with_its_lesions_and_the_order_of_isic(ham, from_dataverse):
    if from_dataverse:
        (ham / HAM).unlink()
        rows = ('"' + row.replace(",", '"\t"') + '"' for row in HAM_ROWS)
        write_table(ham / "HAM10000_metadata", *rows)
    dataset = load_dataset(f"ham10000:{ham}")
    assert dataset.classes == ("MEL", "NV")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.ids == ("ISIC_1", "ISIC_2", "ISIC_3")
    assert dataset.groups == ("HAM_1", "HAM_2", "HAM_1")
    assert dataset.images[1].path == ham / "HAM10000_images_part_2" / "ISIC_2.jpg"
    assert dataset.augmentation == "dermoscopy"


@pytest.mark.parametrize(
    ("place", "masks"),
    [
        ("ham10000_images_part_1/ISIC_1.JPG", None),
        ("Images/isic_1.jpg", "masks"),
        ("./ISIC_1.jpg", "HAM10000_segmentations_lesion_tschandl"),
    ],
)
def test_ham10000_images_and_masks_are_found_where_mirrors_put_them(ham, place, masks):
    (ham / place).parent.mkdir(exist_ok=True)
    (ham / "HAM10000_images_part_1" / "ISIC_1.jpg").rename(ham / place)
    if masks:
        (ham / masks).mkdir()
    dataset = load_dataset(f"ham10000:{ham}")
    assert dataset.images[0].path == ham / place
    assert dataset.masks == (masks and ham / masks)


@pytest.mark.parametrize(
    ("table", "old", "new", "reason"),
    [
        (TRUTH, "ISIC_2,1.0", "ISIC_2,0.0", "row 3"),
        (METADATA, "lesion_id", "lesion", "lesion_id"),
        (METADATA, "ISIC_3", "ISIC_4", "ISIC_3"),
        ("ISIC_2019_Training_Input/ISIC_2.jpg", None, None, "lacks 1 image, first ISIC_2.jpg"),
        (HAM, ",nv,", ",naevus,", "row 2 has the dx 'naevus'"),
        (HAM, "ISIC_3", "ISIC_9", "isic_9"),
        (HAM, None, None, HAM),
    ],
)
def test_a_published_layout_that_cannot_be_used_names_the_place(isic, ham, table, old, new, reason):
    """The text of a table is replaced, or a file removed."""
    spec = f"ham10000:{ham}" if table == HAM else f"isic2019:{isic}"
    path = Path(spec.partition(":")[2]) / table
    path.write_text(path.read_text().replace(old, new)) if old else path.unlink()
    with pytest.raises(DataError) as failure:
        load_dataset(spec)
    assert reason in str(failure.value)
    assert "\n" not in str(failure.value)
