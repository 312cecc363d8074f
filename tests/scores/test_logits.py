import math

import numpy as np
import pytest
import torch
from pytorch_ood.detector import GEN, EnergyBased, Entropy, MaxLogit, MaxSoftmax

from misgiving.scores.logits import LOGIT_SCORES

BY_PYTORCH_OOD = {
    "msp": MaxSoftmax.score,
    "energy": EnergyBased.score,
    "max_logit": MaxLogit.score,
    "entropy": Entropy.score,
    "gen": GEN.score,
}


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(40, 7)) * 2


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_no_score_of_logits_depends_on_the_order_of_the_classes(name, logits):
    shuffled = logits[:, np.random.default_rng(1).permutation(7)]
    np.testing.assert_allclose(
        LOGIT_SCORES[name](shuffled), LOGIT_SCORES[name](logits), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_every_score_of_logits_is_finite_for_huge_and_equal_logits(name):
    logits = np.array([[3e38, -3e38, 0], [-3e38, -3e38, -3e38], [0, 0, 0]], dtype=np.float32)
    scores = LOGIT_SCORES[name](logits)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", sorted(LOGIT_SCORES.keys() - {"gen"}))
def test_scores_of_confident_single_precision_logits_differ(name):
    logits = np.array([[20, 0, -1], [21, 0, -1], [22, 0, -1]], dtype=np.float32)
    assert len(np.unique(LOGIT_SCORES[name](logits))) == 3


@pytest.mark.parametrize("name", BY_PYTORCH_OOD)
def test_scores_of_logits_are_the_negated_ones_of_pytorch_ood(name, logits):
    expected = -BY_PYTORCH_OOD[name](torch.from_numpy(logits)).numpy()
    np.testing.assert_allclose(LOGIT_SCORES[name](logits), expected, rtol=1e-10)


def in_loops(row):
    """Scores of one image's logits by their equations."""
    exponentials = [math.exp(value - max(row)) for value in row]
    shares = [value / math.fsum(exponentials) for value in exponentials]
    clipped = [min(max(p, 1e-7), 1 - 1e-7) for p in shares]
    centred = [value - math.fsum(row) / len(row) for value in row]
    norm = math.sqrt(math.fsum(value**2 for value in centred))
    return {
        "msp": max(shares),
        "energy": max(row) + math.log(math.fsum(exponentials)),
        "max_logit": max(row),
        "entropy": math.fsum(p * math.log(p) for p in shares if p > 0),
        "gen": -math.fsum((p * (1 - p)) ** 0.1 for p in clipped) / len(row),
        "max_logit_norm": max(centred) / norm if norm else 0.0,
    }


@pytest.mark.parametrize("name", LOGIT_SCORES)
def test_scores_of_nearly_equal_and_very_confident_logits_are_their_equations(name, logits):
    logits = logits * np.geomspace(0.01, 100, 40)[:, None]
    logits[0] = 2.0  # all alike
    expected = [in_loops(row)[name] for row in logits.tolist()]
    np.testing.assert_allclose(LOGIT_SCORES[name](logits), expected, rtol=1e-10, atol=1e-300)


def test_the_normalised_logit_does_not_change_with_scale_and_shift(logits):
    scores = LOGIT_SCORES["max_logit_norm"]
    np.testing.assert_allclose(scores(3.0 * logits + 5.0), scores(logits), rtol=1e-12)
