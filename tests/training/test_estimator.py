from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.optim import AdamW

from misgiving.data.batching import sampling_order
from misgiving.errors import UsageError
from misgiving.losses import mse_loss, ranking_loss
from misgiving.predictions.record import Predictions
from misgiving.training.attach import attach, fit_estimator
from misgiving.training.config import TrainingConfig
from misgiving.training.loop import seeded

CONFIG = TrainingConfig(
    epochs=3, batch_size=16, optimizer="adamw", learning_rate=1e-2, class_weights="none",
    sampling="none", weight_decay=0.1, seed=3,
)  # fmt: skip


def model_of(**options):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 3)
    with seeded(1):
        return attach(nn.Sequential(*layers), taps=["0", "1"], image_size=8, **options)


def predictions_of(count=200, seed=0, scale=1.0, shift=0.0):
    """The first channel alone says how large the loss is."""
    random = np.random.default_rng(seed)
    taps = random.normal(size=(count, 10)).astype(np.float32)
    labels = random.integers(0, 3, count)
    logits = np.where(np.eye(3)[labels] > 0, -2 * taps[:, :1], 0.0).astype(np.float32)
    columns = {"logits": logits, "features": taps[:, :4], "taps": taps * scale + shift}
    return Predictions.of({**columns, "label": labels, "classes": ("a", "b", "c")})


def estimated(model, predictions):
    taps = torch.from_numpy(predictions.taps).split([4, 6], dim=1)
    with torch.no_grad():
        return model.loss_estimator(list(taps), torch.from_numpy(predictions.logits)).numpy()


@pytest.mark.parametrize(("auxiliary", "loss"), [("ranking", ranking_loss), ("mse", mse_loss)])
def test_fitting_is_a_plain_loop_over_standardised_averages(auxiliary, loss):
    predictions = predictions_of(count=40, scale=np.linspace(1, 5, 10, dtype=np.float32))
    model, by_hand = model_of(reads_logits=True), model_of(reads_logits=True).loss_estimator
    config = replace(CONFIG, auxiliary=auxiliary)
    fit_estimator(model, predictions, predictions, config)
    taps = torch.from_numpy(predictions.taps)
    standard = (taps - taps.mean(dim=0)) / taps.std(dim=0, correction=0)
    logits = torch.from_numpy(predictions.logits)
    true = torch.from_numpy(predictions.true_losses().astype(np.float32))
    biases = [weight for weight in by_hand.parameters() if weight.dim() == 1]
    others = [weight for weight in by_hand.parameters() if weight.dim() > 1]
    optimizer = AdamW(
        [{"params": biases, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.1}], 1e-2
    )
    for epoch in (1, 2, 3):
        order = sampling_order(predictions.labels, weighting="none", seed=3, epoch=epoch)
        for rows in torch.from_numpy(order).split(16):
            given = list(standard[rows].split([4, 6], dim=1))
            optimizer.zero_grad()
            (0.5 * loss(by_hand(given, logits[rows]), true[rows])).backward()
            optimizer.step()
    with torch.no_grad():
        expected = by_hand(list(standard.split([4, 6], dim=1)), logits).numpy()
    np.testing.assert_allclose(estimated(model, predictions), expected, rtol=1e-3, atol=1e-3)


def test_the_classifier_is_left_as_it_is_and_the_seed_decides():
    model, new = model_of(), predictions_of(seed=1)
    history = fit_estimator(model, predictions_of(), new, CONFIG)
    assert history == fit_estimator(model_of(), predictions_of(), new, CONFIG)
    after = model.backbone.state_dict()
    for name, value in model_of().backbone.state_dict().items():
        assert torch.equal(after[name], value)
    places = [(epoch, name) for epoch in (1, 2, 3) for name in ("train", "tune")]
    assert [(record.epoch, record.set) for record in history] == places
    expected = spearmanr(estimated(model, new), new.true_losses())[0]
    assert history[-1].rank_correlation == pytest.approx(expected, abs=1e-3)


def test_a_channel_that_never_varies_changes_nothing_and_an_estimator_is_required():
    predictions, model = predictions_of(), model_of()
    constant = np.array(predictions.taps)
    constant[:, 3] = 7.0
    fit_estimator(model, replace(predictions, taps=constant), predictions, CONFIG)
    assert np.isfinite(estimated(model, predictions)).all()
    for given, changes in (
        (predictions, {"auxiliary": "none"}),
        (predictions, {"auxiliary_weight": 0.0}),
        (replace(predictions, taps=None), {}),
    ):
        with pytest.raises(UsageError):
            fit_estimator(model_of(), given, given, replace(CONFIG, **changes))
