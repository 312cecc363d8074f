"""Laws of the training losses; in eighths, which double precision adds without rounding."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import columns, orders

from misgiving.losses import joint_objective, primary_losses, ranking_loss

PAIRS = pytest.mark.parametrize("pairs", ["all", "halves"])
eighths = st.integers(0, 16)
batches = columns(17, 5, size=7)  # predicted and true losses; few true ones, so that some are tied
classified = columns(3, 17, 17, 17, 17, size=7)  # labels, logits of three classes, estimates


def tensors(drawn):
    return tuple(torch.tensor(column, dtype=torch.double) / 8 for column in drawn)


def ranked(drawn, *, margin=8, **options):
    options = {"reduction": "sum", **options}
    return ranking_loss(*tensors(drawn), margin=margin / 8, **options).item()


def pairs_of(size, pairs):
    if pairs == "halves":
        return [(i, size - 1 - i) for i in range(size // 2)]
    return [(i, j) for i in range(size) for j in range(size) if i != j]


def wrong_by(predicted, true, margin, pairs):
    """By how many eighths each pair lacks the margin (paper, Eq. 1)."""
    return [
        max(0, -(1 if true[i] > true[j] else -1) * int(predicted[i] - predicted[j]) + margin)
        for i, j in pairs_of(len(true), pairs)
    ]


@PAIRS
@given(batches, eighths)
def test_the_ranking_loss_is_equation_1_without_rounding(pairs, drawn, margin):
    terms = wrong_by(*drawn, margin, pairs)
    assert ranked(drawn, margin=margin, pairs=pairs) == sum(terms) / 8
    mean = float(Fraction(sum(terms), 8 * max(len(terms), 1)))
    assert ranked(drawn, margin=margin, pairs=pairs, reduction="mean") == pytest.approx(mean)


@PAIRS
@given(batches, eighths)
def test_the_ranking_loss_is_zero_where_and_only_where_every_pair_keeps_the_margin(
    pairs, drawn, margin
):
    predicted, true = drawn
    kept = all(
        (predicted[i] - predicted[j]) * (1 if true[i] > true[j] else -1) >= margin
        for i, j in pairs_of(len(true), pairs)
    )
    assert (ranked(drawn, margin=margin, pairs=pairs) == 0) == kept


@PAIRS
@given(batches, st.integers(-80, 80), st.integers(1, 9))
def test_only_the_order_of_true_and_the_gaps_of_predicted_losses_count(pairs, drawn, shift, factor):
    predicted, true = drawn
    plain = ranked(drawn, pairs=pairs)
    assert ranked((predicted + shift, factor * true**2 + shift), pairs=pairs) == plain


@PAIRS
@given(batches, eighths, st.integers(1, 9))
def test_the_ranking_loss_is_in_units_of_the_margin(pairs, drawn, margin, factor):
    predicted, true = drawn
    scaled = ranked((factor * predicted, true), margin=factor * margin, pairs=pairs)
    assert scaled == factor * ranked(drawn, margin=margin, pairs=pairs)


@given(batches, st.data())
def test_the_order_of_a_batch_does_not_change_its_ranking_loss(drawn, data):
    order = data.draw(orders(len(drawn[0])))
    assert ranked([column[order] for column in drawn]) == ranked(drawn)


@PAIRS
@given(batches)
def test_turning_a_batch_round_leaves_the_gaps_of_untied_pairs(pairs, drawn):
    predicted, true = drawn[0], np.arange(len(drawn[0]))
    turned = ranked((predicted[::-1].copy(), true[::-1].copy()), pairs=pairs)
    assert turned == ranked((predicted, true), pairs=pairs)


@PAIRS
@given(columns(17, 17, 5, size=7))
def test_half_way_between_two_predictions_the_loss_is_no_higher_than_their_mean(pairs, drawn):
    one, other, true = drawn
    middle = ranking_loss(*tensors(((one + other) / 2, true)), pairs=pairs, reduction="sum").item()
    assert middle <= (ranked((one, true), pairs=pairs) + ranked((other, true), pairs=pairs)) / 2


@PAIRS
@given(batches)
def test_the_gradient_pulls_predictions_apart_and_not_up_or_down(pairs, drawn):
    predicted, true = tensors(drawn)
    loss = ranking_loss(predicted.requires_grad_(), true, pairs=pairs, reduction="sum")
    loss.backward()
    assert predicted.grad.sum().item() == 0
    assert (predicted.grad == predicted.grad.round()).all()  # each pair pulls by 1


@given(classified, st.integers(1, 8), st.floats(0.1, 10))
def test_the_unit_of_class_weights_cancels_in_the_weighted_mean(drawn, factor, weight):
    labels, *values = drawn
    logits, estimates = torch.stack(tensors(values[:3]), dim=1), tensors(values[3:])[0]
    found = [
        joint_objective(
            logits, estimates, torch.tensor(labels), auxiliary=None,
            class_weights=scale * torch.tensor([1.0, weight, 2.0], dtype=torch.double),
        )
        for scale in (1, factor)
    ]  # fmt: skip
    torch.testing.assert_close(found[1].total, found[0].total)
    torch.testing.assert_close(found[1].true_losses, factor * found[0].true_losses)


@given(classified, st.integers(-80, 80))
def test_adding_the_same_to_all_logits_changes_no_loss_and_none_is_negative(drawn, shift):
    labels, *values = drawn
    logits = torch.stack(tensors(values[:3]), dim=1)
    losses = primary_losses(logits, torch.tensor(labels))
    shifted = primary_losses(logits + shift / 8, torch.tensor(labels))
    assert (losses >= 0).all()
    torch.testing.assert_close(shifted, losses, atol=1e-12, rtol=1e-9)


@given(classified, eighths)
def test_the_total_is_the_primary_loss_and_so_many_times_the_auxiliary_one(drawn, weight):
    labels, *values = drawn
    logits, estimates = torch.stack(tensors(values[:3]), dim=1), tensors(values[3:])[0]
    found = joint_objective(logits, estimates, torch.tensor(labels), weight=(weight + 1) / 8)
    auxiliary = ranking_loss(estimates, primary_losses(logits, torch.tensor(labels)))
    torch.testing.assert_close(found.auxiliary, auxiliary)
    torch.testing.assert_close(found.total, found.primary + (weight + 1) / 8 * auxiliary)
