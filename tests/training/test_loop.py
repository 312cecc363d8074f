import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from coloured import coloured_set
from refusals import naming
from scipy.stats import spearmanr
from torch.nn import functional as F
from torch.optim import Adam

from misgiving.data.batching import augment, batches, sampling_order
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.errors import TrainingError, UsageError
from misgiving.losses import auxiliary_loss
from misgiving.models.joint import JointClassifier
from misgiving.predictions.inference import predictions_of
from misgiving.training import loop
from misgiving.training.config import ModelConfig, TrainingConfig
from misgiving.training.loop import class_weights, schedule_of, seeded, train
from misgiving.training.train_run import initial_model

CONFIG = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-3, device="cpu", seed=5)
VANILLA = {"auxiliary": "none"}


def build(**options):
    with seeded(5):
        return JointClassifier("vgg16_mini", num_classes=3, pretrained=False, **options)


def trained(images, *, build_options=None, **changes):
    model = build(**(build_options or {}))
    history = train(
        model,
        images,
        coloured_set(size=12, seed=1),
        replace(CONFIG, **changes),
        augmentation=AugmentationSettings(),
    )
    return model, history


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_seed_alone_decides_weights_and_history(images):
    before = torch.random.get_rng_state()
    (first, history), (second, again) = trained(images), trained(images)
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's own
    assert same(first, second)
    assert history == again
    assert not same(first.backbone, trained(images, seed=6)[0].backbone)


def test_no_more_images_are_measured_after_an_epoch_than_are_learned_from(monkeypatch):
    measured, seen = loop.measured, []

    def recorded(fabric, module, config, images):
        seen.append(set(images.ids))
        return measured(fabric, module, config, images)

    monkeypatch.setattr(loop, "measured", recorded)
    few, many = coloured_set(size=12), coloured_set(size=60, seed=1)
    train(build(), few, many, replace(CONFIG, **VANILLA))
    assert seen[:2] == seen[2:]  # the same after each epoch
    assert seen[0] == set(few.ids)
    assert len(seen[1]) == 12
    assert seen[1] < set(many.ids)
    assert seen[1] != set(many.ids[:12])  # drawn: a set may be in the order of its classes


def own_mse(predicted, true):
    return (predicted - true).square().mean()


def of_each_image(predicted, true):
    return (predicted - true).square()


def without_gradient(predicted, true):
    return own_mse(predicted, true).item()


def logarithm(predicted, _):
    return predicted.log().mean()  # a predicted loss can be negative


def misspelled(predicted, _):
    return predicted.sub(true).mean()  # noqa: F821


def test_a_loss_of_ones_own_takes_the_place_of_the_auxiliary_loss(images):
    own, history = trained(images, auxiliary=f"{__name__}:own_mse")
    built_in, expected = trained(images, auxiliary="mse")
    for mine, theirs in zip(own.parameters(), built_in.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    assert [record.auxiliary_loss for record in history] == pytest.approx(
        [record.auxiliary_loss for record in expected], rel=1e-4
    )
    for name in ("of_each_image", "without_gradient", "logarithm", "misspelled", "absent"):
        with pytest.raises(UsageError, match=name):
            auxiliary_loss(f"{__name__}:{name}")
    network = ModelConfig(backbone="vgg16_mini", pretrained=False)
    with pytest.raises(UsageError):  # before an image is prepared
        initial_model(network, replace(CONFIG, auxiliary="absent:loss"), 3, 16)


@pytest.fixture(scope="module")
def vanilla():
    return trained(coloured_set(), **VANILLA)


def test_vanilla_is_bit_for_bit_training_without_an_estimator_and_a_plain_loop(images, vanilla):
    trained_model, history = vanilla
    without, _ = trained(images, build_options={"taps": ()}, **VANILLA)
    assert same(trained_model.backbone, without.backbone)
    assert same(trained_model.loss_estimator, build().loss_estimator)  # its first weights
    places = [(record.epoch, record.set) for record in history]
    assert places == [(1, "train"), (1, "validation"), (2, "train"), (2, "validation")]
    assert all(math.isnan(record.rank_correlation) for record in history)
    assert all(math.isnan(record.auxiliary_loss) for record in history)
    model = build(taps=()).train()
    weights = torch.tensor([1.0, 1.0, 1.0])  # the classes are of one size
    optimizer = Adam(model.parameters(), 1e-3, betas=(0.9, 0.999), weight_decay=5e-4, fused=True)
    with seeded(5):
        for epoch in (1, 2):
            random = np.random.SeedSequence([5, epoch, 1]).generate_state(1)[0]
            generator = torch.Generator().manual_seed(int(random))
            order = sampling_order(images.labels, weighting="inverse", seed=5, epoch=epoch)
            for pixels, labels in batches(images, batch_size=8, order=order):
                augmented = augment(pixels, AugmentationSettings(), generator)
                loss = F.cross_entropy(model(augmented).logits, labels, weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert same(trained_model.backbone, model.backbone)


def test_only_joint_training_changes_the_classifier_and_the_estimator_has_its_rate(images, vanilla):
    model, (detached, _) = vanilla[0], trained(images, detached=True)
    assert same(model.backbone, detached.backbone)
    assert not same(model.loss_estimator, detached.loss_estimator)
    assert not same(trained(images)[0].backbone, detached.backbone)
    fast, _ = trained(images, estimator_rate=10.0, detached=True)
    assert same(detached.backbone, fast.backbone)
    start = build().loss_estimator.head.weight
    moved = [(m.loss_estimator.head.weight - start).abs().mean() for m in (detached, fast)]
    assert moved[1] > 3 * moved[0]


def test_history_shows_how_well_predicted_losses_follow_the_true_ones(images):
    model, history = trained(images, auxiliary="mse")
    monitored = predictions_of(model, coloured_set(size=12, seed=1))  # the set of `trained`
    predicted = monitored.predicted_losses.astype(float)
    true = monitored.true_losses()  # weights are 1
    last, error = history[-1], ((true - predicted) ** 2).mean()
    assert last.rank_correlation == pytest.approx(spearmanr(predicted, true).statistic, abs=1e-6)
    assert last.spread_ratio == pytest.approx(predicted.std() / true.std(), rel=1e-3)
    assert last.r_squared == pytest.approx(1 - error / true.var(), rel=1e-3, abs=1e-4)


def test_the_learning_rate_falls_after_so_many_epochs(images):
    stopped, _ = trained(images, epochs=3, decay_every=1, decay_factor=1e-12)
    once, _ = trained(images, epochs=1)
    weights = dict(once.named_parameters())
    for name, weight in stopped.named_parameters():
        torch.testing.assert_close(weight, weights[name], atol=1e-9, rtol=0)


@pytest.mark.parametrize(("size", "steps"), [(9, 1), (15, 2), (24, 3)])
def test_steps_are_in_order_and_a_last_batch_of_one_is_left_out(size, steps):
    told = []
    train(build(), coloured_set(size=size), coloured_set(size=6), CONFIG, on_step=told.append)
    expected = [(epoch, step, steps) for epoch in (1, 2) for step in range(1, steps + 1)]
    assert [(step.epoch, step.step, step.steps) for step in told] == expected
    assert all(math.isfinite(step.primary) and math.isfinite(step.auxiliary) for step in told)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 6, "learning_rate": 3e-3, "epochs": 5},  # the best is between others
        {"seed": 7, "learning_rate": 1e-2, "epochs": 6},  # and here the first of equals
    ],
)
def test_keeping_the_best_epoch_gives_the_weights_of_that_epoch(images, changes):
    model, history = trained(images, **changes, keep="best")
    validation = [r.balanced_accuracy for r in history if r.set == "validation"]
    expected, _ = trained(images, **changes | {"epochs": int(np.argmax(validation)) + 1})
    assert same(model, expected)


def test_the_cosine_schedule_warms_up_and_ends_at_zero():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = Adam([parameter], lr=0.2)
    config = replace(CONFIG, epochs=4, schedule="cosine", warmup=0.25)
    schedule = schedule_of(optimizer, config, 10)
    rates = []
    for step in range(40):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    expected = [0.2 * step / 10 for step in range(10)]
    expected += [0.1 * (1 + math.cos(math.pi * step / 40)) for step in range(10, 40)]
    assert rates == pytest.approx(expected)


def test_a_loss_that_is_not_finite_an_unknown_precision_and_no_estimator_are_explained(images):
    with pytest.raises(TrainingError, match=r"epoch 1, .*learning_rate.*1e\+30"):
        trained(images, learning_rate=1e30, epochs=3)
    with pytest.raises(UsageError):
        trained(images, precision="12")
    with pytest.raises(UsageError, check=naming("taps")):
        trained(images, build_options={"taps": ()})


@pytest.mark.usefixtures("as_in_use")
def test_impossible_settings_are_refused():
    for changes in (
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"beta1": 1.0},
        {"batch_size": 64, "devices": 3},
        {"batch_size": 4, "devices": 4},
    ):
        with pytest.raises(UsageError, check=naming(next(iter(changes)))):
            replace(CONFIG, **changes)


def test_class_weights_by_hand_of_which_an_absent_class_has_none():
    for weighting, expected in (
        ("inverse", [4 / 9, 4 / 3, 0.0]),
        ("sqrt", [(4 / 9) ** 0.5, (4 / 3) ** 0.5, 0.0]),
        ("none", [1.0, 1.0, 1.0]),
    ):
        weights = class_weights(np.array([0, 0, 0, 1]), 3, weighting)
        assert weights.tolist() == pytest.approx(expected)


def test_a_model_trained_in_half_precision_comes_back_in_single(images):
    model, _ = trained(images, precision="bf16-true", epochs=1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
