"""The paper's protocol from end to end, on small drawn lesions in the layout of ISIC 2019."""

import hashlib
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from commands import call, of_json
from elements import parse
from PIL import Image

from misgiving.data.decoding import BadImagesError
from misgiving.metrics.selective import RiskCoverage
from misgiving.predictions.record import Predictions
from misgiving.reproduction.collection import collect
from misgiving.reproduction.config import Unit
from misgiving.reproduction.protocol import DERIVED, chosen_units, ood_sources, protocol_for
from misgiving.reproduction.report.run import select
from misgiving.reproduction.runner import reproduce_units
from misgiving.reproduction.tables import load_scores, read_table
from misgiving.reproduction.trial_data import TrialData

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
LESIONS = 12  # of each class, with two pictures each
BAD = "ISIC_0000009"  # cannot be read
GRID = {"temperatures": (1.0, 1000.0), "epsilons": (0.0, 0.002)}


def lesion_picture(random, label):
    """A dark disc on bright skin, and the mask that says where it is."""
    rows, columns = np.mgrid[:48, :64]
    centre = random.integers(20, 28), random.integers(28, 36)
    mask = np.hypot(rows - centre[0], columns - centre[1]) < 6 + label % 3
    picture = np.full((48, 64, 3), (220, 180, 170)) + random.integers(-9, 10, (48, 64, 3))
    picture[mask] = (20 * label, 60, 200 - 20 * label)
    return picture.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def isic(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("isic"), np.random.default_rng(0)
    for name in ("ISIC_2019_Training_Input", "masks", "tiles", *DERIVED):
        (folder / name).mkdir()
    numbers = np.arange(2 * LESIONS * len(CLASSES))
    names, labels = [f"ISIC_{number:07d}" for number in numbers], numbers % len(CLASSES)
    for name, label in zip(names, labels, strict=True):
        picture, mask = lesion_picture(random, label)
        Image.fromarray(picture).save(folder / f"ISIC_2019_Training_Input/{name}.jpg", quality=95)
        Image.fromarray(np.uint8(255) * mask).save(folder / f"masks/{name}_segmentation.png")
    truth = pd.DataFrame(np.eye(9)[labels], index=names, columns=[*CLASSES, "UNK"])
    truth.to_csv(folder / "ISIC_2019_Training_GroundTruth.csv", index_label="image")
    facts = {"age_approx": 50, "anatom_site_general": "torso", "sex": "female"}
    lesions = [f"HAM_{label}_{number // 16}" for number, label in enumerate(labels)]
    metadata = pd.DataFrame({**facts, "lesion_id": lesions}, index=names)
    metadata.to_csv(folder / "ISIC_2019_Training_Metadata.csv", index_label="image")
    for count, name in enumerate((*DERIVED, "tiles"), start=6):
        for number in range(count):
            noise = random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
            Image.fromarray(noise).save(folder / name / f"given{number}.png")
    for name in (f"ISIC_2019_Training_Input/{BAD}.jpg", "tiles/given7.png"):
        (folder / name).write_bytes(b"<b>no image</b>")
    return folder


def small_protocol(isic, sources, **changes):
    return protocol_for(
        f"isic2019:{isic}",
        model={"backbone": "vgg16_mini", "pretrained": False},
        training={"epochs": 1, "batch_size": 16, "device": "cpu"},
        sources=ood_sources(sources, ["tiles=noise of one source"]),
        **changes,
    )


def by_command(isic, tiles, out):
    """With all sets but NCT made of the data, and another learning rate, by the command."""
    with pytest.MonkeyPatch.context() as patched:  # files of figures take most of the time
        patched.setattr("misgiving.reproduction.report.page.render", lambda *_, **__: b"")
        code, _, error = call(
            "reproduce", "--data", f"isic2019:{isic}", "--out", out, "--cache", out / "cache",
            "--backbone", "vgg16_mini", "--no-pretrained", "--epochs", 1, "--batch-size", 16,
            "--device", "cpu", "--image-size", 16, "--validation-share", 0.25, "--trials", 1,
            "--models", "vanilla", "--learning-rates", "1e-3", "--jobs", 1,
            "--on-bad-image", "skip", "--ood", tiles, "--about", "tiles=noise of one source",
            cache=out / "cache",
        )  # fmt: skip
    assert code == 0, error
    images = {"image_size": 16, "validation_share": 0.25, "on_bad_image": "skip"}
    rest = {"trials": 1, "models": ("vanilla",), "learning_rates": (1e-3,)}
    return small_protocol(isic, [tiles], images=images, **rest)


def grouped_by_lesion(isic, tiles, out):
    """With all sets as published, and two models in two trials."""
    protocol = small_protocol(
        isic,
        [tiles, *(f"{name}={isic / name}" for name in DERIVED)],
        images={"image_size": 16, "split": "grouped", "on_bad_image": "skip"},
        odin={**GRID, "criterion": "fpr_at_tpr95"},
        trials=2,
        models=("vanilla", "proposed"),
        learning_rates=(),
        replicates=50,
    )
    trial_data = TrialData(protocol, out / "cache")
    reproduce_units(trial_data, out)
    collect(trial_data, out)
    return protocol


@pytest.fixture(scope="module", params=[by_command, grouped_by_lesion])
def reproduced(request, isic, tmp_path_factory):
    out = tmp_path_factory.mktemp("reproduced")
    protocol = request.param(isic, f"nct:tiles={isic / 'tiles'}", out)
    return TrialData(protocol, out / "cache"), out


only = partial(pytest.mark.parametrize, "reproduced", indirect=True)


def test_every_set_is_measured_by_every_odin_and_one_is_tuned_by_the_criterion(reproduced):
    trial_data, out = reproduced
    rows = select(read_table(out / "results.csv"), experiment="ood_detection", metric="auroc")
    assert trial_data.protocol.ood_sets == ("tiles", *DERIVED)
    for odin in ("odin", "odin_default", "odin_id_only"):
        assert {"tiles", *DERIVED} <= set(select(rows, detector=odin)["dataset"])
    criterion, settings = trial_data.protocol.odin.criterion, ["temperature", "epsilon"]
    for unit in chosen_units(trial_data.protocol, experiment="ood_detection"):
        grid = pd.read_csv(out / unit.folder / "odin_grid.csv")
        best = grid[criterion].idxmax() if criterion == "auroc" else grid[criterion].idxmin()
        chosen = select(read_table(out / unit.folder / "results.csv"), detector="odin")
        chosen = chosen.set_index("metric")["value"][settings]
        assert chosen.tolist() == grid.loc[best, settings].tolist()


@only([by_command])
def test_other_learning_rates_are_measured_and_derived_sets_come_from_images_not_trained_on(
    reproduced,
):
    trial_data, out = reproduced
    unit = Unit("learning_rate/0.001", 0, "vanilla")
    for name in ("results.csv", "intervals.csv", "histories.csv"):
        assert not select(read_table(out / name), experiment=unit.experiment).empty
    assert not (out / unit.folder / "run" / "model.safetensors").exists()
    setup = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    held_out = setup.images_of("validation").ids
    for name in DERIVED:  # images that cannot be read shift none of them
        dataset, images = trial_data.outliers(0)[name]
        assert dataset.ids == images.ids
        assert {identity.removeprefix(f"{name}-") for identity in images.ids} <= set(held_out)


def test_images_that_cannot_be_read_are_left_out_and_named(reproduced, page_of):
    trial_data, out = reproduced
    settings, account = of_json(out / "settings.json"), of_json(out / "datasets.json")
    bad = [(trial_data.protocol.data, BAD), ("tiles", "tiles-given7.png")]
    assert [(image["set"], image["image"]) for image in settings["skipped"]] == bad
    assert (settings["images"], account["tiles"]["images"]) == (191, 9)
    assert f"left out of {trial_data.protocol.data}, as unreadable: {BAD}" in page_of(out)


def test_a_reproduction_fails_on_bad_images_of_any_set_unless_told(isic, tmp_path):
    sources = ood_sources([f"nct:tiles={isic / 'tiles'}"])
    for data, bad in (f"isic2019:{isic}", BAD), ("digits", "tiles-given7.png"):
        with pytest.raises(BadImagesError) as failure:
            TrialData(protocol_for(data, sources=sources), tmp_path).outliers(0)
        assert [image.image for image in failure.value.images] == [bad]


def test_a_sensitivity_counts_the_lesions_of_its_class_and_confusions_the_images(reproduced):
    trial_data, out = reproduced
    counts = []
    for trial in range(trial_data.protocol.trials):
        setup = trial_data.setup(Unit("generalization", trial, "vanilla"))
        images = setup.images_of(setup.evaluation_sets.measured)
        members = images.units[images.labels == images.classes.index("DF")]
        counts.append(len(set(members)))
    rows = select(read_table(out / "intervals.csv"), experiment="generalization")
    assert set(select(rows, metric="sensitivity/DF")["n"]) == {min(counts)}
    confusions = read_table(out / "confusions.csv")
    last = select(confusions, experiment="generalization", trial=trial, model="vanilla")
    assert last["images"].sum() == len(images)


def test_published_sets_replace_those_that_are_made_here(reproduced, page_of, isic):
    trial_data, out = reproduced
    account = of_json(out / "datasets.json")
    given = {source.name for source in trial_data.protocol.sources}
    differences = parse(page_of(out)).texts("li")
    for name in DERIVED:
        files = sorted((isic / name).iterdir())
        hashes = {
            f"{name}-{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files
        }
        manifest = pd.read_csv(out / "manifests" / f"{name}.csv").set_index("id")["sha256"]
        if name in given:
            checksum = hashlib.sha256("".join(f"{it}:0\n" for it in hashes.values()).encode())
            unit = out / Unit("ood_detection", 0, "vanilla").folder / "unit.json"
            record = of_json(unit)["detection"]["outliers"]
            expected = {"origin": "published set", "images": len(files), "left_out": 0}
            assert account[name].items() >= expected.items()
            assert account[name]["checksum"] == record[name][0] == checksum.hexdigest()
            assert manifest.to_dict() == hashes
        else:
            assert account[name]["origin"] == "made here"
            assert not manifest.isin(hashes.values()).any()
    made = "B-Box: made here of held-out images instead of the published set."
    assert (made in differences) == ("b_box" not in given)
    assert ("B-Box: 6 images instead of 2,025." in differences) == ("b_box" in given)
    assert (account["tiles"]["origin"], account["tiles"]["paper_set"]) == ("given", "nct")
    assert account["tiles"]["contents"].startswith("noise of one source")


@only([grouped_by_lesion])
def test_a_part_of_the_units_is_reported_as_such_and_monitored_on_the_tuning_set(
    reproduced, tmp_path
):
    trial_data, whole = reproduced
    settings = of_json(whole / "settings.json")
    sets = [settings[f"{name}_set"] for name in ("tuning", "measured")]
    assert sets == ["tune", "test"]
    assert set(read_table(whole / "histories.csv")["set"]) == {"train", "tune"}
    chosen = [Unit("generalization", 0, model) for model in ("vanilla", "proposed")]
    chosen += [Unit("generalization", 1, "vanilla")]
    for unit in chosen:
        shutil.copytree(whole / unit.folder, tmp_path / unit.folder)
    collect(trial_data, tmp_path)
    assert len(of_json(tmp_path / "settings.json")["missing_units"]) == 8 - 3
    rows = select(read_table(tmp_path / "intervals.csv"), metric="balanced_accuracy")
    assert set(zip(rows["model"], rows["baseline"], rows["trials"], strict=True)) == {
        ("vanilla", "", 2),
        ("proposed", "", 1),
        ("proposed", "vanilla", 1),
    }


@only([grouped_by_lesion])
def test_every_trial_of_a_grouped_reproduction_has_an_error_estimator(reproduced):
    trial_data, out = reproduced
    for unit in chosen_units(trial_data.protocol, experiment="generalization"):
        kept, _ = load_scores(out / unit.folder, "failures")
        predicted = Predictions.read(out / unit.folder / "predictions" / "test.npz")
        rows = select(read_table(out / unit.folder / "results.csv"), metric="aurc")
        measured = rows.set_index("detector")["value"].to_dict()
        assert {"msp", "calibrated", "error_estimator"} <= set(measured) == set(kept)
        expected = {
            name: RiskCoverage(scores, predicted.errors).aurc() for name, scores in kept.items()
        }
        assert measured == pytest.approx(expected)


def test_a_set_that_cannot_be_taken_is_refused_before_any_image_is_prepared(fail, isic, tmp_path):
    (tmp_path / "empty").mkdir()
    places = ("--data", f"isic2019:{isic}", "--out", tmp_path / "out", "--tuning-set", "b_box")
    assert "empty" in fail(1, "reproduce", *places, "--ood", f"b_box={tmp_path / 'empty'}")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
