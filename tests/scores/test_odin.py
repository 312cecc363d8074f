import math

import numpy as np
import pytest
import torch
from pytorch_ood.detector import ODIN
from torch import nn

from misgiving.errors import UsageError
from misgiving.scores.logits import LOGIT_SCORES
from misgiving.scores.odin import Odin, best_of_grid, id_only_odin, odin_grid, score_grid, tune_odin

CLASSES = 5


@pytest.fixture
def classify():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 16), nn.Tanh(), nn.Linear(16, CLASSES))
    return model.double().requires_grad_(False).eval()


@pytest.fixture
def images():
    return torch.rand(6, 3, 4, 4, dtype=torch.double)


def resolved(scores, temperature):
    """T (log S + log K): of order 1 at any temperature, so that differences can be seen."""
    return temperature * (torch.as_tensor(scores).log() + math.log(CLASSES))


def equations_3_and_4(classify, images, temperature, eta):
    scores = []
    for image in images:
        x = image[None].clone().requires_grad_()
        exponentials = torch.exp(classify(x)[0] / temperature)
        (exponentials.max() / exponentials.sum()).log().backward()
        perturbed = x - eta * torch.sign(-x.grad)
        exponentials = torch.exp(classify(perturbed)[0] / temperature)
        scores.append((exponentials.max() / exponentials.sum()).item())
    return torch.tensor(scores, dtype=torch.double)


def by_pytorch_ood(classify, images, temperature, eta):
    return -ODIN(classify, eps=eta, temperature=temperature).predict(images).double()


@pytest.mark.parametrize("oracle", [equations_3_and_4, by_pytorch_ood])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 1000.0])
def test_odin_is_equations_3_and_4_and_that_of_pytorch_ood(classify, images, temperature, oracle):
    scores = Odin(temperature=temperature, epsilon=0.05)(classify, images)
    expected = oracle(classify, images, temperature, 0.05)
    difference = resolved(scores, temperature) - resolved(expected, temperature)
    assert difference.abs().max() < 1e-9


def test_odin_without_perturbation_or_scaling_is_max_softmax_and_needs_no_gradient(
    classify, images
):
    def watched(batch):
        assert not torch.is_grad_enabled()
        return classify(batch)

    expected = LOGIT_SCORES["msp"](classify(images).numpy())
    scores = Odin(temperature=1.0, epsilon=0.0)(watched, images)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_odin_works_where_gradients_are_switched_off(classify, images, context):
    odin = Odin(temperature=2.0, epsilon=0.05)
    expected = odin(classify, images)
    with context():
        torch.testing.assert_close(odin(classify, images), expected, rtol=0, atol=0)


def test_odin_leaves_model_and_images_as_they_were(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, CLASSES)).double()
    before = images.clone()
    Odin()(model, images)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_odin_scores_do_not_crowd_at_a_high_temperature_in_single_precision(classify):
    images = torch.rand(64, 3, 4, 4)
    scores = Odin(temperature=1000.0)(classify.float(), images)
    assert len(scores.unique()) == 64


def test_odin_is_not_computed_in_half_precision_under_autocast(classify):
    images = torch.rand(64, 3, 4, 4)
    expected = Odin()(classify.float(), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(Odin()(classify, images), expected, rtol=0, atol=0)


@pytest.fixture(params=[True, False])
def allowed(request):
    """Allow TF32 beforehand: in both kinds of products, or in convolutions alone."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32, matmul.allow_tf32 = True, request.param
    yield request.param
    cudnn.allow_tf32, matmul.allow_tf32 = before


def test_odin_is_not_computed_in_tf32_and_restores_what_was_allowed(images, allowed):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    seen = []

    def looking(batch):
        seen.append((cudnn.allow_tf32, matmul.allow_tf32))
        return batch.flatten(1)[:, :CLASSES]

    Odin()(looking, images)
    assert set(seen) == {(False, False)}
    assert len(seen) == 2
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, allowed)
    with pytest.raises(ZeroDivisionError):
        Odin()(lambda _: 1 / 0, images)
    assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, allowed)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"epsilon": -0.1}, {"temperature": math.nan}]
)
def test_odin_refuses_impossible_settings(options):
    with pytest.raises(UsageError):
        Odin(**options)


GRID = [Odin(temperature=t, epsilon=e) for t in (1.0, 10.0, 1000.0) for e in (0.0, 0.01, 0.05)]


def test_a_grid_gives_the_scores_of_its_points_one_by_one(classify, images):
    scores = score_grid(classify, [images[:4], images[4:]], GRID)
    for point in GRID:
        np.testing.assert_allclose(scores[point], point(classify, images).numpy(), rtol=1e-12)


def test_a_grid_shares_its_work(classify, images):
    passes = []

    def counting(batch):
        passes.append(len(batch))
        return classify(batch)

    score_grid(counting, [images], GRID)
    assert len(passes) == 1 + 3 * 2  # one unperturbed pass, and one for each (T, epsilon > 0)


def test_tuning_chooses_the_point_with_the_highest_auroc_by_brute_force(classify, images):
    outliers = torch.rand(9, 3, 4, 4, dtype=torch.double) * 2
    tuning = tune_odin(classify, [images], [outliers], (1.0, 10.0), (0.0, 0.05))
    aurocs = {}
    for temperature in (1.0, 10.0):
        for epsilon in (0.0, 0.05):
            odin = Odin(temperature=temperature, epsilon=epsilon)
            inlier, outlier = odin(classify, images), odin(classify, outliers)
            aurocs[odin] = (inlier[:, None] > outlier).double().mean().item()
    assert {point: each["auroc"] for point, each in tuning.grid.items()} == pytest.approx(aurocs)
    assert tuning.best == max(aurocs, key=aurocs.get)


def test_tuning_for_fpr_takes_the_lowest_where_the_highest_auroc_is_elsewhere():
    first, second = Odin(temperature=1.0, epsilon=0.0), Odin(temperature=2.0, epsilon=0.0)
    inliers = np.arange(20.0)  # the strictest threshold that accepts 19 of them is 1
    rates = {"auroc": first, "fpr_at_tpr95": second}
    outliers = {
        first: np.full(10, 1.0),  # AUROC 0.925, all accepted
        second: np.repeat([0.0, 19.0], 5),  # AUROC (0.975 + 0.025) / 2, half accepted
    }
    for criterion, best in rates.items():
        tuning = best_of_grid(
            {first: inliers, second: inliers}, outliers, [first, second], criterion=criterion
        )
        assert tuning.best == best
        assert [point["fpr_at_tpr95"] for point in tuning.grid.values()] == [1.0, 0.5]
        found = [point["auroc"] for point in tuning.grid.values()]
        assert found == pytest.approx([0.925, 0.5])


def test_the_choice_without_ood_images_maximises_the_mean_confidence(classify, images):
    epsilons = (0.0, 0.01, 0.05, 0.4)
    grid = odin_grid((1.0, 100.0), epsilons)
    chosen = id_only_odin(score_grid(classify, [images], grid), grid)
    means = {eta: float(equations_3_and_4(classify, images, 100.0, eta).mean()) for eta in epsilons}
    assert chosen == Odin(temperature=100.0, epsilon=max(means, key=means.get))
