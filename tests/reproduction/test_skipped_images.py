"""A reproduction on data and an OOD set that hold images that cannot be read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from misgiving.errors import BadImagesError
from misgiving.reproduction.collection import collect
from misgiving.reproduction.config import OdinGrid, OodSource, Unit
from misgiving.reproduction.runner import reproduce_units
from misgiving.reproduction.trial_data import TrialData
from misgiving.training.config import DataConfig

FAILING = DataConfig(image_size=16, validation_share=0.4)
BAD = ("a/1.png", "c/4.png")


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    """Three classes of 30 images and an OOD set of 12; three of them all cannot be read."""
    folder = tmp_path_factory.mktemp("skipped")
    random = np.random.default_rng(0)
    for name, count in (("set/a", 30), ("set/b", 30), ("set/c", 30), ("scans", 12)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (20, 20, 3)).astype(np.uint8)
            pixels[5:9, 5:9] = 40 * "abcs".index(name[-1])
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    for name in (*(f"set/{bad}" for bad in BAD), "scans/7.png"):
        (folder / name).write_bytes(b"<b>no image</b>")
    return replace(
        TINY,
        data=f"folder:{folder / 'set'}",
        in_distribution=("a", "b"),
        unseen=("c",),
        ood_sets=("scans", "boxes"),
        sources=(OodSource(name="scans", location=str(folder / "scans")),),
        odin=OdinGrid(tuning_set="scans", temperatures=(1.0,), epsilons=(0.0,)),
        images=replace(FAILING, on_bad_image="skip"),
        models=("vanilla",),
        trials=1,
    )


def test_a_reproduction_fails_on_bad_images_of_any_set_unless_told(protocol, tmp_path):
    with pytest.raises(BadImagesError) as failure:
        TrialData(replace(protocol, images=FAILING), tmp_path)
    assert tuple(bad.image for bad in failure.value.images) == BAD
    good = {"images": DataConfig(), "data": "digits", "unseen": ("2",)}
    trial_data = TrialData(replace(protocol, in_distribution=("0", "1"), **good), tmp_path)
    with pytest.raises(BadImagesError) as failure:
        trial_data.outliers(0)
    assert [bad.image for bad in failure.value.images] == ["scans-7.png"]


def test_a_reproduction_goes_on_without_bad_images_and_its_report_says_so(
    protocol, page_of, tmp_path
):
    trial_data, out = TrialData(protocol, tmp_path / "cache"), tmp_path / "out"
    reproduce_units(trial_data, out)
    collect(trial_data, out)
    settings = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    skipped = [(image["set"], image["image"]) for image in settings["skipped"]]
    assert skipped == [*((protocol.data, name) for name in BAD), ("scans", "scans-7.png")]
    assert settings["images"] == 88
    assert f"left out of {protocol.data}, as unreadable: a/1.png, c/4.png" in page_of(out)
    assert "scans-7.png" not in (out / "manifests" / "scans.csv").read_text(encoding="utf-8")
    # a box that is shifted by a bad image would come from an image that was trained on
    boxes, _ = trial_data.outliers(0)["boxes"]
    held_out = trial_data.setup(Unit("ood_detection", 0, "vanilla")).images_of("validation")
    assert boxes.ids == tuple(f"boxes-{identity}" for identity in held_out.ids)
    scans, images = trial_data.outliers(0)["scans"]
    assert scans.ids == images.ids
    assert len(images) == 11
