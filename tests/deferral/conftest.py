import numpy as np
import pytest

from misgiving.deferral.thresholds import ScoredCases

CLASSES = ("NV", "MEL", "BCC")


def drawn_cases(count, seed=0, *, worst=0.6):
    """ScoredCases whose errors become rarer with the score; the OOD score is its own."""
    random = np.random.default_rng(seed)
    scores = random.random(count)
    return ScoredCases(
        scores=scores,
        ood_scores=random.normal(size=count),
        wrong=random.random(count) < worst * (1 - scores) ** 2,
        labels=random.integers(len(CLASSES), size=count),
        acceptable=np.ones(count, dtype=bool),
    )


@pytest.fixture(name="drawn_cases")
def drawn_cases_fixture():
    return drawn_cases


@pytest.fixture
def classes():
    return CLASSES
