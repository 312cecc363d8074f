import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from misgiving.calibration.error_or_ood import ACCEPTANCE, ErrorOrOod, error_or_ood
from misgiving.errors import DataError
from misgiving.metrics.mixed import mixed_aurc
from misgiving.metrics.selective import aurc


@pytest.fixture
def tuning():
    """MSP, two OOD scores of which the second also ranks errors wrongly, and the errors."""
    random = np.random.default_rng(3)
    msp = random.uniform(0.3, 1.0, size=300)
    wrong = random.random(300) > msp
    knn = random.normal(size=300)
    return {"msp": msp, "knn": knn, "energy": knn + 4 * wrong}, wrong


def outliers_of(tuning, *, gap):
    random = np.random.default_rng(4)
    scores, _ = tuning
    return {
        "msp": random.uniform(0.5, 1.0, size=200),
        "knn": random.normal(size=200),
        "energy": random.normal(scores["energy"].mean() - gap, 1.0, size=200),
    }


def test_the_score_orders_as_the_equation_of_the_paper(tuning):
    scores, wrong = tuning
    found = error_or_ood(scores, wrong, primaries=["msp"], secondaries=["knn"], most_cost=1.0)
    a = scores["knn"].mean()  # the highest a is affordable
    b = 1 / scores["knn"].std()
    expected = [
        -(1 - s1) * (1 + math.exp(-b * (s2 - a)))
        for s1, s2 in zip(scores["msp"], scores["knn"], strict=True)
    ]
    np.testing.assert_allclose(found(scores), [-math.log(-value) for value in expected])


def test_the_a_of_the_paper_is_three_standard_deviations_below_the_mean(tuning):
    scores, wrong = tuning
    # without a bound on the cost a is the mean; it moves down until the cost is allowed
    costs = {}
    for below in (0, 1, 2, 3):
        a = scores["knn"].mean() - below * scores["knn"].std()
        pair = ErrorOrOod(
            primary="msp", secondary="knn", scaling=None, a=a, b=1 / scores["knn"].std()
        )
        costs[below] = aurc(pair(scores), wrong) - aurc(scores["msp"], wrong)
    assert costs[0] > costs[1] > costs[2] > costs[3] > 0
    for below, cost in costs.items():
        chosen = error_or_ood(
            scores, wrong, primaries=["msp"], secondaries=["knn"], most_cost=cost + 1e-9
        )
        expected = scores["knn"].mean() - below * scores["knn"].std()
        assert chosen.a == pytest.approx(expected)


def test_a_secondary_score_that_costs_too_much_is_passed_over(tuning):
    scores, wrong = tuning
    asked = {"primaries": ["msp"], "secondaries": ["energy", "knn"]}
    assert error_or_ood(scores, wrong, **asked, most_cost=1.0).secondary == "energy"
    assert error_or_ood(scores, wrong, **asked, most_cost=0.01).secondary == "knn"
    alone = error_or_ood(scores, wrong, **asked, most_cost=-1.0)
    assert alone.secondary is None
    assert spearmanr(alone(scores), scores["msp"]).statistic == pytest.approx(1.0)


def test_with_ood_images_the_pair_with_the_lowest_mixed_aurc_is_chosen(tuning):
    scores, wrong = tuning
    outliers = outliers_of(tuning, gap=8.0)
    chosen = error_or_ood(scores, wrong, outliers=outliers, ood_share=0.6, most_cost=-1.0)
    assert chosen.secondary == "energy"  # of no use in-distribution
    reached = mixed_aurc(chosen(scores), wrong, chosen(outliers), ood_share=0.6)
    for secondary in ("knn", "energy"):
        for below in (0, 1, 2, 3):
            a = scores[secondary].mean() - below * scores[secondary].std()
            b = 1 / scores[secondary].std()
            other = ErrorOrOod(primary="msp", secondary=secondary, scaling=None, a=a, b=b)
            found = mixed_aurc(other(scores), wrong, other(outliers), ood_share=0.6)
            assert reached <= found


def test_of_two_primary_scores_the_one_with_the_lower_aurc_is_chosen(tuning):
    scores, wrong = tuning
    better = np.where(wrong, -1.0, 1.0) + scores["knn"] / 10
    chosen = error_or_ood({**scores, ACCEPTANCE: better}, wrong)
    assert chosen.primary == ACCEPTANCE
    assert error_or_ood({**scores, ACCEPTANCE: scores["knn"]}, wrong).primary == "msp"


def test_answers_of_which_the_softmax_is_certain_are_ordered_by_the_secondary_score():
    pair = ErrorOrOod(primary="msp", secondary="knn", scaling=None, a=0.0, b=1.0)
    found = pair({"msp": np.ones(3), "knn": np.array([-800.0, -2.0, 3.0])})
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()


def test_a_missing_score_and_one_that_is_not_finite_are_refused(tuning):
    scores, wrong = tuning
    pair = error_or_ood(scores, wrong)
    with pytest.raises(DataError, match=pair.secondary):
        pair({"msp": scores["msp"]})
    with pytest.raises(DataError, match="give one of the scores"):
        error_or_ood({"knn": scores["knn"]}, wrong)
    undefined = np.where(np.arange(300) < 7, scores["knn"], np.nan)
    with pytest.raises(DataError, match="knn is not finite at position 7 of the tuning set"):
        error_or_ood({**scores, "knn": undefined}, wrong)
    with pytest.raises(DataError, match="the tuning set has 1 images"):
        error_or_ood({name: values[:1] for name, values in scores.items()}, wrong[:1])
