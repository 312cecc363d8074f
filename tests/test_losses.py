from fractions import Fraction
from functools import partial
from weakref import WeakSet

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import naming
from strategies import columns
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from misgiving import losses
from misgiving.errors import UsageError
from misgiving.losses import AUXILIARY_LOSSES, joint_objective, ranking_loss


def penalty(predicted, true, i, j, margin):
    """One term of the paper's Eq. 1, read off the page."""
    indicator = 1.0 if true[i] > true[j] else -1.0
    return max(0.0, -indicator * (float(predicted[i]) - float(predicted[j])) + margin)


def pairs_of(size, pairs="all"):
    if pairs == "halves":
        return [(i, size - 1 - i) for i in range(size // 2)]
    return [(i, j) for i in range(size) for j in range(size) if i != j]


PAIRS = pytest.mark.parametrize("pairs", ["all", "halves"])
eighths = st.integers(0, 16)
batches = columns(17, 5, size=7)  # predicted and true losses; few true ones, so that some are tied


def tensors(drawn):
    return tuple(torch.tensor(column, dtype=torch.double) / 8 for column in drawn)


def ranked(drawn, *, margin=8, **options):
    options = {"reduction": "sum", **options}
    return ranking_loss(*tensors(drawn), margin=margin / 8, **options).item()


@PAIRS
@given(batches, eighths)
def test_the_ranking_loss_is_equation_1_without_rounding(pairs, drawn, margin):
    """In eighths, which double precision adds without rounding."""
    terms = [int(penalty(*drawn, i, j, margin)) for i, j in pairs_of(len(drawn[0]), pairs)]
    assert ranked(drawn, margin=margin, pairs=pairs) == sum(terms) / 8
    mean = float(Fraction(sum(terms), 8 * max(len(terms), 1)))
    assert ranked(drawn, margin=margin, pairs=pairs, reduction="mean") == pytest.approx(mean)


@PAIRS
@given(batches)
def test_the_gradient_pulls_predictions_apart_and_not_up_or_down(pairs, drawn):
    predicted, true = tensors(drawn)
    loss = ranking_loss(predicted.requires_grad_(), true, pairs=pairs, reduction="sum")
    loss.backward()
    assert predicted.grad.sum().item() == 0
    assert (predicted.grad == predicted.grad.round()).all()  # each pair pulls by 1


class Kept:
    """A tensor that the backward pass needs."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_the_memory_of_a_large_batch_is_bounded():
    """By the pairs of a block; the backward pass needs none of them."""
    size, largest, kept = 4096, [], WeakSet()

    def keep(tensor):
        kept.add(box := Kept(tensor))
        largest.append(tensor.numel())
        return box

    predicted = torch.randn(size, requires_grad=True)
    with saved_tensors_hooks(keep, lambda box: box.tensor):
        loss = ranking_loss(predicted, torch.rand(size))
    assert max(largest) <= losses.MAX_PAIRS
    assert sum(box.tensor.numel() for box in kept) <= 2 * size
    loss.backward()
    assert predicted.grad.abs().sum() > 0


def with_every_tie(size, seed):
    """On a grid with ties of either loss and of both, where penalties of exactly 0 occur."""
    random = torch.Generator().manual_seed(seed)
    predicted = torch.randint(-8, 8, (size,), generator=random).double() / 4 + 100 * (seed % 2)
    return predicted, torch.randint(0, 6, (size,), generator=random).double()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 31, 32, 33])
@pytest.mark.parametrize("margin", [0.0, 0.3, 0.5, 1.0, 10.0])
@pytest.mark.parametrize("max_pairs", [1, 20, 2000])
def test_pairs_in_blocks_are_equation_1_with_its_gradient(size, margin, max_pairs, monkeypatch):
    monkeypatch.setattr(losses, "MAX_PAIRS", max_pairs)
    for seed in range(6):
        predicted, true = with_every_tie(size, seed)
        leaf = predicted.clone().requires_grad_()
        loss = ranking_loss(leaf, true, margin=margin, reduction="sum")
        numbers = predicted.tolist(), true.tolist()
        terms = [penalty(*numbers, i, j, margin) for i, j in pairs_of(size)]
        assert loss.item() == pytest.approx(sum(terms), rel=1e-10, abs=1e-10)
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert gradient.tolist() == slopes(*numbers, margin)


def slopes(predicted, true, margin):
    """The gradient of the sum, term by term; 0 at a kink."""
    gradient = [0.0] * len(predicted)
    for i, j in pairs_of(len(predicted)):
        if penalty(predicted, true, i, j, margin) > 0:
            indicator = 1.0 if true[i] > true[j] else -1.0
            gradient[i] -= indicator
            gradient[j] += indicator
    return gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_loss_of_narrow_types_is_exact(dtype):
    predicted, true = with_every_tie(600, 0)
    leaf = predicted.to(dtype).requires_grad_()
    loss = ranking_loss(leaf, true.float())
    expected = ranking_loss(predicted, true)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    loss.backward()
    assert leaf.grad.dtype == dtype


def test_a_margin_is_not_lost_beside_large_predictions():
    predicted = torch.full((600,), 1e9)
    assert ranking_loss(predicted, torch.rand(600)).item() == 1.0


@pytest.mark.parametrize("broken", ["predicted", "true"])
def test_what_is_not_a_number_cannot_be_ranked(broken):
    values = {"predicted": torch.randn(600), "true": torch.rand(600)}
    values[broken][7] = torch.nan
    assert ranking_loss(**values).isnan()


@PAIRS
@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_without_a_pair_has_nothing_in_the_wrong_order(pairs, size):
    predicted = torch.randn(size, requires_grad=True)
    loss = ranking_loss(predicted, torch.rand(size), pairs=pairs)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(predicted.grad, torch.zeros(size))


@pytest.mark.parametrize("name", [name for name, loss in AUXILIARY_LOSSES.items() if loss])
def test_no_auxiliary_loss_pulls_the_true_losses(name):
    predicted = torch.randn(4, requires_grad=True)
    true = torch.rand(4, requires_grad=True)
    AUXILIARY_LOSSES[name](predicted, true).backward()
    assert predicted.grad.abs().sum() > 0
    assert true.grad is None


def batch(classes=3):
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(6, classes, generator=random, dtype=torch.double)
    return logits, torch.tensor([0, 0, 1, 2, 1, 0]), torch.tensor([0.2, 1.0, 3.0]).double()


@pytest.mark.parametrize("mean", ["weighted", "plain"])
def test_the_weighted_mean_is_that_of_torch_and_the_plain_one_divides_by_the_samples(mean):
    logits, labels, weights = batch()
    objective = partial(joint_objective, logits, logits[:, 0], labels, auxiliary=None, mean=mean)
    weighted = F.cross_entropy(logits, labels, weights)
    plain = F.cross_entropy(logits, labels, weights, reduction="sum") / 6
    expected = {"weighted": weighted, "plain": plain}[mean]
    torch.testing.assert_close(objective(class_weights=weights).total, expected)


def test_the_total_is_equation_2():
    logits, labels, _ = batch()
    predicted = torch.randn(6, dtype=torch.double)
    objective = joint_objective(logits, predicted, labels, weight=0.25)
    losses = F.cross_entropy(logits, labels, reduction="none")
    terms = [penalty(predicted, losses, i, j, 1.0) for i, j in pairs_of(6)]
    expected = losses.mean().item() + 0.25 * sum(terms) / len(terms)
    assert objective.total.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("target", "weighted"), [("trained", True), ("plain", False)])
def test_the_estimators_target_is_the_loss_as_trained_or_plain(target, weighted):
    logits, labels, weights = batch()
    objective = joint_objective(logits, logits[:, 0], labels, class_weights=weights, target=target)
    expected = F.cross_entropy(logits, labels, weights if weighted else None, reduction="none")
    torch.testing.assert_close(objective.true_losses, expected)


@pytest.mark.parametrize("options", [{"auxiliary": None}, {"weight": 0.0}])
def test_without_an_auxiliary_term_a_broken_estimate_cannot_spoil_the_total(options):
    logits, labels, _ = batch()
    broken = torch.full((6,), torch.nan, dtype=torch.double)
    objective = joint_objective(logits, broken, labels, **options)
    torch.testing.assert_close(objective.total, F.cross_entropy(logits, labels))
    assert objective.auxiliary.isnan()


@pytest.mark.usefixtures("as_in_use")
def test_unknown_options_are_refused_by_name():
    logits, labels, estimates = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.zeros(4)
    objective = partial(joint_objective, logits, estimates, labels)
    for function, name, value in (
        (objective, "target", "plian"),
        (objective, "mean", "wieghted"),
        (objective, "weight", -0.5),
        (partial(ranking_loss, estimates, estimates), "margin", -1.0),
        (partial(ranking_loss, estimates, estimates), "pairs", "some"),
        (partial(ranking_loss, estimates, estimates), "reduction", "max"),
    ):
        with pytest.raises(UsageError, check=naming(name)):
            function(**{name: value})
