import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from misgiving.calibration.fit import aurc, fit_platt
from misgiving.metrics.selective import RiskCoverage


def test_the_error_probability_is_that_of_logistic_regression():
    random = np.random.default_rng(5)
    score = random.normal(20.0, 8.0, size=500)
    wrong = random.random(500) > expit((score - 10) / 5)
    standard = (score - score.mean()) / score.std()
    logistic = LogisticRegression(C=9.0, tol=1e-10).fit(standard[:, None], ~wrong)  # 3^2: the prior
    slope, intercept = fit_platt(score, wrong)
    assert slope * score.std() == pytest.approx(logistic.coef_[0, 0], rel=2e-2)
    expected = logistic.predict_proba(standard[:, None])[:, 0]
    np.testing.assert_allclose(expit(-slope * score - intercept), expected, atol=2e-3)


@pytest.mark.parametrize("wrong", [np.arange(6) < 3, np.arange(6) >= 3, np.zeros(6, dtype=bool)])
def test_the_map_keeps_the_order_of_any_score(wrong):
    score = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    slope, intercept = fit_platt(score, wrong)
    assert np.isfinite([slope, intercept]).all()
    assert slope > 0


@pytest.mark.parametrize("distinct", [3, 1000])
def test_the_area_by_which_scores_are_compared_is_that_of_the_metrics(distinct):
    random = np.random.default_rng(1)
    score, wrong = random.integers(distinct, size=200) / 7, random.random(200) < 0.3
    assert aurc(score, wrong) == pytest.approx(RiskCoverage(score, wrong).aurc(), rel=1e-12)
