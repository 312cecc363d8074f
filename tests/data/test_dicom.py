"""DICOM files are shown as viewers show them, grouped by hashed tags, and refused by their tag."""

import math
import re
import shutil
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pydicom.data
import pytest
from corpus import picture
from dicoms import UID, dicom, item, lut
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000, JPEG2000Lossless, RLELossless

from misgiving.data import dicom as reading
from misgiving.data.cache import prepare
from misgiving.data.datasets import load_dataset, unlabelled_images
from misgiving.data.datasets.dataset import ArrayImage
from misgiving.data.datasets.tags import with_tags
from misgiving.data.decoding import decode, ignored_sentences
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import DataError, UsageError
from misgiving.hash_key import hash_key_file, hashed

PUBLISHED = [
    path
    for path in sorted((Path(pydicom.data.__file__).parent / "test_files").rglob("*"))
    if path.is_file() and path.read_bytes()[128:132] == b"DICM"
]
DCM2IMG = shutil.which("dcm2img")
OTHER_PLUGIN = {JPEG2000: "gdcm", JPEG2000Lossless: "gdcm"}
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
PLAIN = Preprocessing(image_size=8, crop=1.0, color_constancy="none")


@pytest.fixture(autouse=True)
def own_key(monkeypatch, tmp_path):
    monkeypatch.setenv("MISGIVING_HASH_KEY", str(tmp_path / "own" / "hash.key"))


def grey(image):
    """The grey level of each pixel, in thirds of 255."""
    return image.sum(axis=2, dtype=int)


def image_or_refusal(path):
    try:
        return decode(path.read_bytes(), path.name).astype(int), ""
    except DataError as refusal:
        return None, str(refusal)


def shown_by_another(path, tags, folder, monkeypatch):
    """The image as dcmtk shows it, or for JPEG 2000 as another decoder reads it; None for none."""
    if plugin := OTHER_PLUGIN.get(tags.file_meta.TransferSyntaxUID):
        monkeypatch.setattr(reading, "pixel_array", partial(pixel_array, decoding_plugin=plugin))
        return image_or_refusal(path)[0]
    chosen = ["+Wi", "1"] if "WindowWidth" in tags else []
    command = [DCM2IMG, "-O", "--write-raw-pnm", *chosen, path, folder / "shown.ppm"]
    if subprocess.run(command, capture_output=True).returncode:
        return None
    with Image.open(folder / "shown.ppm") as opened:
        return np.array(opened.convert("RGB")).astype(int)


@pytest.mark.skipif(DCM2IMG is None, reason="needs dcmtk")
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.name)
def test_a_published_file_looks_as_elsewhere_or_is_refused_in_one_line(path, tmp_path, monkeypatch):
    image, refusal = image_or_refusal(path)
    if image is None:
        assert re.match(rf"{re.escape(path.name)}: .*(the|no) tag \([^\n]*$", refusal)
        return
    tags = dcmread(path)
    other = shown_by_another(path, tags, tmp_path, monkeypatch)
    if other is None or path.name in ("6293", "6924"):  # whose pixels are not square
        assert path.name in ("SC_rgb_jpeg.dcm", "6293", "6924")
        return
    if tags.PhotometricInterpretation.startswith("MONO"):
        image = np.rint(image.mean(axis=2, keepdims=True)).astype(int)
    assert np.abs(image - other).max() <= 1


def linear(x, centre, width):
    if x <= centre - 0.5 - (width - 1) / 2:
        return 0.0
    if x > centre - 0.5 + (width - 1) / 2:
        return 1.0
    return (x - (centre - 0.5)) / (width - 1) + 0.5


VOI = {
    "as stored": ({}, lambda x: x / 4095),
    "linear": ({"WindowCenter": 2000, "WindowWidth": 1000}, lambda x: linear(x, 2000, 1000)),
    "step": ({"WindowCenter": 2000, "WindowWidth": 1}, lambda x: float(x > 1999.5)),
    "exact": (
        {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"},
        lambda x: min(max((x - 2000) / 1000 + 0.5, 0), 1),
    ),
    "sigmoid": (
        {"WindowCenter": 2000, "WindowWidth": 1000, "VOILUTFunction": "SIGMOID"},
        lambda x: 1 / (1 + math.exp(-4 * (x - 2000) / 1000)),
    ),
    "rescaled": (
        {"RescaleSlope": 0.5, "RescaleIntercept": -1000, "WindowCenter": 0, "WindowWidth": 400},
        lambda x: linear(0.5 * x - 1000, 0, 400),
    ),
    "falling": ({"RescaleSlope": -2, "RescaleIntercept": 1}, lambda x: 1 - x / 4095),
    "first of two": (
        {"WindowCenter": [2000, 100], "WindowWidth": [1000, 50]},
        lambda x: linear(x, 2000, 1000),
    ),
    "table of 8 bits": (
        {"VOILUTSequence": [lut(np.arange(2000) % 256, 1000, 8)]},
        lambda x: (min(max(x - 1000, 0), 1999) % 256) / 255,
    ),
    "modality table": (
        {"ModalityLUTSequence": [lut(np.arange(4096)[::-1] * 16, 0, 16)]},
        lambda x: (4095 - x) * 16 / 65535,
    ),
    "both tables": (
        {
            "ModalityLUTSequence": [lut(np.arange(4096) // 2, 0, 16)],
            "VOILUTSequence": [lut(np.arange(2048) * 2, 0, 12)],
        },
        lambda x: (x // 2) * 2 / 4095,
    ),
}


@pytest.mark.parametrize("name", VOI)
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_grey_values_follow_the_equations_of_the_standard(name, kind):
    tags, brightness = VOI[name]
    image = grey(decode(dicom(RAMP, kind, bits=12, **tags), "a"))
    for code, level in zip(RAMP.ravel().tolist(), image.ravel().tolist(), strict=True):
        expected = brightness(code) if kind == "MONOCHROME2" else 1 - brightness(code)
        assert abs(level - 765 * expected) <= 0.5 + 1e-6


def test_signed_values_keep_their_sign_and_bits_of_overlays_are_ignored():
    signed = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    marked = (signed.view(np.uint16) & 0x0FFF | 0x5000).view(np.int16)
    written = dicom(signed, bits=12, WindowCenter=0, WindowWidth=100)
    with_marks = written.replace(signed.tobytes(), marked.tobytes())
    assert with_marks != written
    expected = [linear(x, 0, 100) for x in range(-2048, 2048)]
    for data in (written, with_marks):
        levels = grey(decode(data, "a")).ravel()
        np.testing.assert_allclose(levels, 765 * np.array(expected), atol=0.5 + 1e-6)


def test_sixteen_bits_reach_the_model_as_more_than_256_levels():
    data = dicom(np.arange(2**16, dtype=np.uint16).reshape(256, 256))
    square = Preprocessing(image_size=256, crop=1.0, color_constancy="none").from_file(data, "a")
    assert len(np.unique(grey(square))) == 766
    assert (square.max(axis=2) - square.min(axis=2)).max() == 1  # still grey


@pytest.mark.parametrize("compressed", [None, RLELossless, JPEG2000Lossless])
def test_colours_and_palettes_keep_their_values(compressed):
    pixels = np.tile(picture(), (2, 2, 1))
    np.testing.assert_array_equal(decode(dicom(pixels, compressed=compressed), "a"), pixels)
    deep = pixels.astype(np.uint16) * 16 + 7  # of 4095
    expected = np.rint(deep * (255 / 4095))
    shown = decode(dicom(deep, bits=12, compressed=compressed), "a")
    np.testing.assert_array_equal(shown, expected)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint16)
    tables = {}
    for name, values in zip(("Red", "Green", "Blue"), (colours * 257).T, strict=True):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = values.astype("<u2").tobytes()
    codes = (np.arange(4096) % 256).astype(np.uint8).reshape(64, 64)
    data = dicom(codes, "PALETTE COLOR", compressed=compressed, **tables)
    np.testing.assert_array_equal(decode(data, "a"), colours[codes])


def test_pixels_become_square_and_the_closer_spacing_is_kept():
    assert decode(dicom(RAMP, bits=12, PixelSpacing=[2, 1]), "a").shape == (128, 64, 3)
    assert decode(dicom(RAMP, bits=12, PixelAspectRatio=[1, 3]), "a").shape == (64, 192, 3)
    with pytest.raises(DataError, match="more than 89478485 pixels"):
        decode(dicom(RAMP, bits=12, PixelAspectRatio=[1, 10**6]), "a")


def test_the_chosen_frame_is_read_with_what_holds_for_it():
    frames = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 1000)])
    windows = [
        item(FrameVOILUTSequence=[item(WindowCenter=centre, WindowWidth=2001)])
        for centre in (2000, 2000, 1000)
    ]
    data = dicom(frames, bits=12, PerFrameFunctionalGroupsSequence=windows)
    whole = {"image_size": 64, "crop": 1.0, "color_constancy": "none"}
    first, second, third = (
        grey(Preprocessing(frame=frame, **whole).from_file(data, "a")) for frame in (1, 2, 3)
    )
    np.testing.assert_array_equal(first, second[::-1])
    assert {*third.ravel()} == {round(765 * linear(1000, 1000, 2001))}
    with pytest.raises(DataError, match=r"a: .*has 3 frames"):
        Preprocessing(frame=4, **whole).from_file(data, "a")
    single = dicom(RAMP, bits=12)
    assert Preprocessing(frame=4, **whole).from_file(single, "a").any()


GOOD = dicom(RAMP, bits=12)
ALLOCATED = b"(\0\0\1US\2\0\x10\0"
DAMAGED = {
    "truncated": (GOOD[:-100], r"\(7FE0,0010\)"),
    "without pixels": (GOOD[: GOOD.index(b"\xe0\x7f\x10\0")], r"no tag \(7FE0,0010\) PixelData"),
    "of no width": (dicom(RAMP, bits=12, WindowCenter=1, WindowWidth=0), r"\(0028,1051\)"),
    "of an unknown syntax": (
        GOOD.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.7\0"),
        "Transfer Syntax",
    ),
    "of 32 bits": (GOOD.replace(ALLOCATED, ALLOCATED[:-2] + b" \0"), r"\(0028,0100\)"),
    "flat": (dicom(RAMP, bits=12, RescaleSlope=0, RescaleIntercept=0), "no contrast"),
    "without rows": (GOOD.replace(b"(\0\x10\0US", b"(\0\x12\0US"), r"\(0028,0010\) Rows"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_cannot_be_read_is_refused_in_one_line_with_the_tag(name):
    data, tag = DAMAGED[name]
    with pytest.raises(DataError, match=rf"^a: .*{tag}.*; replace it .*$"):
        decode(data, "a")


def written(folder, count=6, **tags):
    """A folder for each of two classes, with files that have no suffix; three of each patient."""
    for number in range(count):
        place = folder / ("ill", "well")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        named = {"PatientID": f"P{number // 3}", "StudyInstanceUID": f"1.2.{number}", **tags}
        (place / f"{UID}.{number}").write_bytes(dicom(RAMP // (number + 1), bits=12, **named))
    (folder / "ill" / "DICOMDIR").write_bytes(GOOD)
    (folder / "ill" / "notes").write_text("no image")
    return f"folder:{folder}"


def test_files_without_a_suffix_are_found_by_their_preamble(tmp_path):
    dataset = load_dataset(written(tmp_path / "data"))
    assert [len(dataset), dict(dataset.ignored)] == [6, {"": 2}]
    assert len(unlabelled_images([tmp_path / "data"], name="new")) == 6
    assert "the extra dicom reads DICOM" in ignored_sentences({".dcm": 1})[0]


def test_patients_are_groups_by_a_hash_that_needs_the_key(tmp_path):
    dataset = load_dataset(written(tmp_path / "data", Modality="MR"))
    with pytest.warns(UserWarning, match=r"made .*hash\.key"):
        prepared = prepare(dataset, PLAIN, cache=tmp_path / "cache")
    assert hash_key_file().stat().st_mode & 0o777 == 0o600
    assert prepared.group_columns == ("patient",)
    patients = [int(name[-1]) // 3 for name in prepared.ids]
    assert prepared.groups == tuple(hashed(f"P{number}") for number in patients)
    assert "P0" not in "".join(prepared.groups)
    by_study = with_tags(dataset, Preprocessing(group_tag="StudyInstanceUID", tags=("Modality",)))
    assert (len({*by_study.groups}), by_study.group_columns) == (6, ("group",))
    assert by_study.metadata["Modality"] == ("MR",) * 6
    hash_key_file().write_text("k" * 32)
    assert hashed("P0") not in prepared.groups
    hash_key_file().write_text("short")
    with pytest.raises(DataError, match=r"hash\.key: has fewer than 32 bytes"):
        hashed("P0")


def test_groups_that_the_data_name_are_kept(tmp_path):
    written(tmp_path / "data")
    rows = [f"well/{UID}.1,well,a", f"ill/{UID}.0,ill,a", f"ill/{UID}.2,ill,b"]
    (tmp_path / "data" / "t.csv").write_text("\n".join(["path,label,patient", *rows]))
    tagged = with_tags(load_dataset(f"table:{tmp_path / 'data' / 't.csv'}"), PLAIN)
    assert tagged.groups == ("a", "a", "b")


def test_only_files_of_a_mixed_set_have_tags(tmp_path):
    hash_key_file().parent.mkdir()
    hash_key_file().write_text("k" * 32)
    dataset = load_dataset(written(tmp_path / "data", Modality="MR"))
    images = (ArrayImage(picture()), *dataset.images[1:])
    tagged = with_tags(replace(dataset, images=images), Preprocessing(tags=("Modality",)))
    assert tagged.metadata["Modality"] == ("", *("MR",) * 5)


def test_burned_in_annotations_are_warned_about(tmp_path):
    hash_key_file().parent.mkdir()
    hash_key_file().write_text("k" * 32)
    data = written(tmp_path / "data", BurnedInAnnotation="YES")
    with pytest.warns(UserWarning, match=r"6 images have burned-in .*\(0028,0301\)"):
        tagged = with_tags(load_dataset(data), PLAIN)
    assert tagged.metadata["BurnedInAnnotation"] == ("YES",) * 6


def test_tags_are_keywords_of_dicom():
    with pytest.raises(UsageError, match="'PatientsID' is no keyword of DICOM"):
        Preprocessing(group_tag="PatientsID")
