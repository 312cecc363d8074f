import sys
from dataclasses import replace
from functools import partial
from inspect import signature

import numpy as np
import pytest
from tiny import TINY

from misgiving.data.preprocessing import Preprocessing
from misgiving.errors import UsageError
from misgiving.models.joint import JointClassifier
from misgiving.reproduction.config import MODELS, OodSource, Unit, settings_of
from misgiving.reproduction.protocol import DERIVED, chosen_units, ood_sources, protocol_for, units
from misgiving.reproduction.trial_data import TrialData
from misgiving.training.config import DataConfig, ModelConfig, TrainingConfig


def test_every_model_changes_the_training_or_the_network_and_proposed_neither():
    made = {
        name: (
            replace(TINY.training, **settings_of(name, TrainingConfig)),
            replace(TINY.model, **settings_of(name, ModelConfig)),
        )
        for name in MODELS
    }
    assert made["proposed"] == (TINY.training, TINY.model)
    assert len(set(made.values())) == len(MODELS)
    assert [name for name in made if not made[name][0].estimates_losses] == ["vanilla"]


def test_a_model_of_ones_own_is_an_auxiliary_loss(trial_data, tmp_path, monkeypatch):
    """Its units depend on the file that has the loss."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("first", "second"):
        text = f"def loss(predicted, true):\n    return predicted.mean()  # {name}\n"
        (tmp_path / f"{name}_own_loss.py").write_text(text)
    names = ("proposed", "first_own_loss:loss", "second_own_loss:loss")
    records = [trial_data.record(Unit("generalization", 0, name)) for name in names]
    assert [record["training"]["auxiliary"] for record in records] == ["ranking", *names[1:]]
    assert len({repr(record["training_code"]) for record in records}) == 3
    assert protocol_for("digits", models=names).models == names
    for unknown in ("absent_own_loss:loss", "proposal"):
        with pytest.raises(UsageError, match=unknown):
            protocol_for("digits", models=("vanilla", unknown))


def test_the_protocol_of_dermoscopy_is_the_papers():
    """Section 4 of the paper, setting by setting."""
    protocol = protocol_for("isic2019:ISIC_2019", tuning_set="b_box")
    training = protocol.training
    assert protocol.model == ModelConfig(backbone="vgg16", pretrained=True, dropout=0.4, taps=None)
    assert signature(JointClassifier).parameters["hidden"].default == 128
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
        == Preprocessing()
    )


def test_given_sets_take_the_rows_of_the_paper_that_they_stand_for_or_replace():
    sources = ood_sources(["mine=a", "nct:histology=b", "derm_skin=c"], ["histology=two sources"])
    assert sources[1] == OodSource(
        name="histology", location="b", stands_for="nct", about="two sources"
    )
    protocol = protocol_for("isic2019:ISIC_2019", sources=sources)
    assert protocol.odin.tuning_set == "histology"
    assert protocol.ood_sets == ("histology", *DERIVED, "mine")


def test_units_can_be_chosen_and_the_sweep_has_the_two_models_that_it_compares():
    assert len(chosen_units(TINY)) == 8
    chosen = chosen_units(TINY, experiment="new_classes", trial=1, model="proposed")
    assert chosen == [Unit("ood_detection", 1, "proposed")]
    protocol = replace(
        TINY,
        learning_rates=(TINY.training.learning_rate, 3e-3),
        models=("vanilla", "mse", "proposed"),
    )
    swept = [unit for unit in units(protocol) if unit.experiment.startswith("learning_rate")]
    assert {unit.experiment for unit in swept} == {"learning_rate/0.003"}  # the other is 4.1's own
    assert {unit.model for unit in swept} == {"vanilla", "proposed"}
    assert len({unit.folder for unit in units(protocol)}) == len(units(protocol)) == 2 * (2 * 3 + 2)
    both = units(replace(TINY, trials=1, models=("vanilla", "detached")))  # one classifier
    assert [unit.model for unit in both if unit.experiment == "ood_detection"] == ["vanilla"]


tiny, sets, units_of = partial(replace, TINY), ood_sources, partial(chosen_units, TINY)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (partial(tiny, models=("vanila",)), "'vanila'"),
        (partial(tiny, unseen=()), "in_distribution"),
        (partial(tiny, challenger="mse"), r"challenger.*vanilla, proposed"),
        (partial(protocol_for, "folder:photos", tuning_set="b_box"), "in_distribution"),
        (partial(protocol_for, "isic2019:ISIC_2019"), "tuning_set"),  # neither NCT nor a stand-in
        (partial(protocol_for, "digits", tuning_set="nct"), "histology, photographs, boxes"),
        (
            partial(protocol_for, "digits", images={"split": "grouped", "validation_share": 0.2}),
            "validation_share",
        ),
        (partial(sets, ["validation=a"]), "'validation'"),
        (partial(sets, ["b/box=a"]), "'b/box'"),
        (partial(sets, ["b_box"]), "ood"),
        (partial(sets, ["ntc:histology=a"]), "'ntc'"),
        (partial(sets, ["nct=a", "nct=b"]), "'nct'"),
        (partial(units_of, trial=2), "trials 0 to 1"),
    ],
)
@pytest.mark.usefixtures("as_in_use")
def test_what_cannot_be_reproduced_is_refused_and_named(make, named):
    with pytest.raises(UsageError, match=named):
        make()


def test_all_models_of_a_trial_see_the_same_split_and_trials_differ(trial_data):
    sets = {unit: trial_data.setup(unit).sets for unit in units(TINY)}
    for trial in range(2):
        vanilla, proposed = (sets[Unit("generalization", trial, m)] for m in TINY.models)
        assert np.array_equal(vanilla, proposed)
    first, second = (sets[Unit("generalization", trial, "vanilla")] for trial in range(2))
    assert not np.array_equal(first, second)
    other = trial_data.setup(Unit("learning_rate/0.0003", 1, "proposed"))
    usual = trial_data.setup(Unit("generalization", 1, "proposed"))
    assert other.training == replace(usual.training, learning_rate=3e-4)
    assert np.array_equal(other.sets, usual.sets)


def test_models_of_4_2_are_trained_on_in_distribution_classes_alone(trial_data):
    setup = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    assert setup.images.classes == TINY.in_distribution
    unseen = np.array(trial_data.images.ids)[trial_data.images.labels >= 7]
    assert set(unseen).isdisjoint(setup.images.ids)


@pytest.mark.parametrize(("split", "measured"), [("paper", "validation"), ("grouped", "test")])
def test_boxes_are_made_of_images_on_which_nothing_was_trained_or_chosen(cache, split, measured):
    images = TINY.images if split == "paper" else DataConfig(split="grouped")
    trial_data = TrialData(replace(TINY, images=images), cache)
    setup = trial_data.setup(Unit("ood_detection", 0, "vanilla"))
    assert trial_data.evaluation_sets.measured == measured
    boxes, _ = trial_data.outliers(0)["boxes"]
    assert set(boxes.groups) <= set(setup.images_of(measured).ids)
    leakage = trial_data.leakage()
    assert len(leakage) == 2 * TINY.trials
    assert all(row["separate"] for row in leakage)
