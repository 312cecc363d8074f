import math

import numpy as np
import pytest
import torch
from pytorch_ood.detector import GEN, EnergyBased, Entropy, MaxLogit, MaxSoftmax

from misgiving.scores import LOGIT_SCORES

THEIRS = {
    "msp": MaxSoftmax.score,
    "energy": EnergyBased.score,
    "max_logit": MaxLogit.score,
    "entropy": Entropy.score,
    "gen": GEN.score,
}


def centred_over_norm(row):
    centred = [value - sum(row) / len(row) for value in row]
    return max(centred) / math.sqrt(sum(value**2 for value in centred))


@pytest.fixture
def logits():
    return torch.randn(40, 7, dtype=torch.double) * 2


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_every_score_of_logits_is_higher_where_one_class_stands_out(name):
    sure, unsure = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    assert LOGIT_SCORES[name](sure) > LOGIT_SCORES[name](unsure)


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_no_score_of_logits_depends_on_the_order_of_the_classes(name, logits):
    shuffled = logits[:, torch.randperm(7)]
    torch.testing.assert_close(
        LOGIT_SCORES[name](shuffled), LOGIT_SCORES[name](logits), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_every_score_of_logits_is_finite_for_huge_and_equal_logits(name):
    logits = torch.tensor([[3e38, -3e38, 0.0], [-3e38, -3e38, -3e38], [0.0, 0.0, 0.0]])
    scores = LOGIT_SCORES[name](logits)
    assert scores.dtype == torch.double
    assert scores.isfinite().all()


@pytest.mark.parametrize("name", sorted(LOGIT_SCORES.keys() - {"gen"}))
def test_scores_of_confident_logits_do_not_crowd_in_single_precision(name):
    logits = torch.tensor([[20.0, 0.0, -1.0], [21.0, 0.0, -1.0], [22.0, 0.0, -1.0]])
    assert len(LOGIT_SCORES[name](logits).unique()) == 3


@pytest.mark.parametrize("name", THEIRS)
def test_scores_of_logits_are_those_of_pytorch_ood_with_the_sign_turned(name, logits):
    torch.testing.assert_close(
        LOGIT_SCORES[name](logits.float()),
        -THEIRS[name](logits.float().double()),
        rtol=1e-12,
        atol=0,
    )


def test_the_normalised_logit_is_its_equation_in_scalar_loops(logits):
    expected = [centred_over_norm(row) for row in logits.tolist()]
    np.testing.assert_allclose(LOGIT_SCORES["max_logit_norm"](logits), expected, rtol=1e-12)


def test_the_normalised_logit_does_not_change_with_scale_and_shift(logits):
    scores = LOGIT_SCORES["max_logit_norm"]
    torch.testing.assert_close(scores(3.0 * logits + 5.0), scores(logits), rtol=1e-12, atol=0)


def test_energy_is_the_log_of_the_sum_of_exponentials():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    expected = math.log(sum(math.exp(value) for value in (1, 2, 3)))
    assert LOGIT_SCORES["energy"](logits).item() == pytest.approx(expected, rel=1e-12)
