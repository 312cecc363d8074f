from dataclasses import replace
from typing import get_args

import pytest
from tiny import TINY

from misgiving.data.datasets.dataset import PAPER_PREPROCESSING
from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import UsageError
from misgiving.reproduction.config import MODELS, ModelName
from misgiving.reproduction.protocol import (
    DERIVED,
    DIGITS,
    PUBLISHED,
    OodSource,
    chosen_units,
    ood_sources,
    protocol_for,
    units,
)
from misgiving.training.config import DataConfig, ModelConfig


def test_every_unit_has_a_folder_of_its_own():
    folders = {unit.folder for unit in units(TINY)}
    assert len(folders) == 2 * 2 * 2


def test_the_columns_change_what_they_say():
    trainings = {name: replace(TINY.training, **column.training) for name, column in MODELS.items()}
    assert not trainings["vanilla"].estimates_losses
    assert trainings["mse"].auxiliary == "mse"
    assert trainings["detached"] == replace(TINY.training, detached=True)
    assert trainings["proposed"] == trainings["proposed+logits"] == TINY.training
    assert [name for name, column in MODELS.items() if column.model] == ["proposed+logits"]
    assert trainings["proposed_halves"] == replace(TINY.training, pairs="halves")
    assert trainings["proposed_sum"] == replace(TINY.training, reduction="sum")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials"),
        ({"models": ("vanila",)}, "'vanila'.*vanilla"),
        ({"models": ("vanilla", "vanilla")}, "models"),
        ({"ood_sets": ("nct",)}, "choose from"),
        ({"unseen": ()}, "in_distribution"),
        ({"unseen": ("2",)}, "'2' cannot be both"),
        ({"learning_rates": (1e-3, 1e-3)}, "learning_rates"),
        ({"learning_rates": (0.00012345678,)}, "learning_rates.*six digits"),
        ({"learning_rates": (0.0,)}, "learning_rates.*be positive"),
        ({"ood_sets": ("boxes",)}, "tuning_set.*boxes.*'histology'"),
    ],
)
@pytest.mark.usefixtures("as_in_use")
def test_impossible_protocols_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(TINY, **changes)


def test_a_protocol_takes_what_is_changed():
    changed = protocol_for(
        "digits",
        training={"epochs": 7},
        model={"backbone": "test_convnext"},
        odin={"criterion": "fpr_at_tpr95"},
        trials=5,
    )
    assert changed.odin == replace(DIGITS.odin, criterion="fpr_at_tpr95")
    assert (changed.trials, changed.training.epochs) == (5, 7)
    assert changed.model.backbone == "test_convnext"
    assert changed.training.batch_size == DIGITS.training.batch_size
    assert changed.models == DIGITS.models


def test_the_protocol_of_dermoscopy_is_the_papers():
    """Section 4 of the paper, setting by setting."""
    protocol = protocol_for("isic2019:ISIC_2019", tuning_set="b_box")
    training = protocol.training
    assert protocol.model == ModelConfig(
        backbone="vgg16", pretrained=True, dropout=0.4, taps=None, hidden=128
    )
    assert (training.epochs, training.batch_size, training.learning_rate) == (50, 64, 1e-4)
    assert (training.decay_every, training.decay_factor) == (10, 0.5)
    assert (training.beta1, training.weight_decay) == (0.9, 5e-4)
    assert (training.sampling, training.class_weights) == ("inverse", "inverse")
    assert (training.auxiliary, training.auxiliary_weight) == ("ranking", 0.5)
    assert (protocol.trials, protocol.images) == (
        3,
        DataConfig(split="paper", validation_share=0.1),
    )
    assert protocol.in_distribution == ("MEL", "NV", "BCC", "AK", "DF")
    assert protocol.unseen == ("BKL", "VASC", "SCC")
    assert (
        Preprocessing(image_size=224, crop=0.85, color_constancy="shades_of_gray")
        == PAPER_PREPROCESSING
    )


def test_a_folder_must_name_its_classes():
    with pytest.raises(UsageError, match="in_distribution"):
        protocol_for("folder:photos", tuning_set="b_box")


def test_a_folder_of_ones_own_has_the_same_experiments():
    protocol = protocol_for(
        "folder:photos", tuning_set="b_box", in_distribution=("a", "b"), unseen=("c",)
    )
    assert protocol.ood_sets == DERIVED


def test_without_nct_or_a_stand_in_the_tuning_set_must_be_chosen():
    with pytest.raises(UsageError, match=r"nct=FOLDER.*tuning_set"):
        protocol_for("isic2019:ISIC_2019")


def test_what_stands_in_for_nct_tunes_odin_and_takes_its_row():
    sources = ood_sources(["mine=a", "nct:histology=b", "clin_skin=c"], ["histology=two sources"])
    protocol = protocol_for("isic2019:ISIC_2019", sources=sources)
    assert protocol.odin.tuning_set == "histology"
    assert protocol.row("histology") == "nct"
    assert protocol.ood_sets == (
        "histology",
        "b_box",
        "b_box_70",
        "b_box_70_image",
        "clin_skin",
        "derm_skin",
        "mine",
    )
    assert sources[1] == OodSource(
        name="histology", location="b", stands_for="nct", about="two sources"
    )


def test_a_set_that_is_given_under_the_name_of_a_derived_one_replaces_it():
    sources = ood_sources(["nct=tiles", "derm_skin=skin", "b_box_70=boxes", "mine=a"])
    protocol = protocol_for("isic2019:ISIC_2019", sources=sources)
    given = ("nct", "b_box_70", "derm_skin")
    assert protocol.ood_sets == ("nct", *DERIVED, "mine")
    assert [name for name in protocol.ood_sets if protocol.origin(name) == PUBLISHED] == [*given]
    assert protocol.origin("b_box") == "made here"
    assert protocol.origin("mine") == "given"


@pytest.mark.parametrize(
    ("named", "about", "message"),
    [
        (["nct"], [], "ood.*NAME=.*'nct'"),
        (["=a"], [], "ood.*NAME="),
        (["validation=a"], [], "'validation' cannot be the name of a set"),
        (["policy_test=a"], [], "'policy_test' cannot be the name of a set"),
        (["a/b=a"], [], "'a/b' cannot be the name"),
        (["ntc:histology=a"], [], "'ntc'"),
        (["unseen-BKL=a"], [], "'unseen-BKL' cannot be the name"),
        (["b_boxx=a"], [], "'b_boxx' can be taken for the paper's set b_box; write b_box="),
        (["Derm-Skin=a"], [], "'Derm-Skin' can be taken for .* derm_skin"),
        (["nct=a", "nct=b"], [], "'nct' is named twice"),
        (["b_box=scikit-image"], [], "b_box:photographs=scikit-image"),
        (["imagenet=scikit-image"], [], "imagenet:photographs=scikit-image"),
        (["nct=a"], ["imagenet=b"], "about.*imagenet"),
    ],
)
def test_an_ood_set_that_is_named_wrongly_is_refused(named, about, message):
    with pytest.raises(UsageError, match=message):
        ood_sources(named, about)


def test_the_sweep_has_units_of_the_two_models_that_it_compares():
    protocol = replace(TINY, learning_rates=(1e-3, 3e-3), models=("vanilla", "mse", "proposed"))
    swept = [unit for unit in units(protocol) if unit.experiment.startswith("learning_rate")]
    assert {unit.experiment for unit in swept} == {"learning_rate/0.003"}  # 1e-3 is 4.1's own
    assert {unit.model for unit in swept} == {"vanilla", "proposed"}


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        ({}, 8),
        ({"experiment": "generalization"}, 4),
        ({"experiment": "new_classes", "trial": 1}, 2),
        ({"experiment": "ood_detection", "trial": 0, "model": "proposed"}, 1),
    ],
)
def test_single_units_can_be_chosen(choice, count):
    assert len(chosen_units(TINY, **choice)) == count


@pytest.mark.parametrize("choice", [{"trial": 2}, {"model": "mse"}, {"experiment": "4.1"}])
def test_a_unit_that_does_not_exist_is_refused(choice):
    with pytest.raises(UsageError, match=r"no unit has .*trials 0 to 1, models vanilla, proposed"):
        chosen_units(TINY, **choice)


def test_data_without_a_protocol_is_refused():
    with pytest.raises(UsageError, match="choose from digits"):
        protocol_for("photos")


def test_a_share_has_no_meaning_for_the_grouped_split():
    with pytest.raises(UsageError, match="validation_share"):
        protocol_for("digits", images={"split": "grouped", "validation_share": 0.2})


def test_the_names_of_models_are_the_choices_of_the_command_line():
    assert tuple(MODELS) == get_args(ModelName)
