import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from misgiving.calibration.platt import fit_platt


def test_the_error_probability_is_that_of_logistic_regression():
    random = np.random.default_rng(5)
    score = random.normal(20.0, 8.0, size=500)
    wrong = random.random(500) > expit((score - 10) / 5)
    standard = (score - score.mean()) / score.std()
    logistic = LogisticRegression(C=9.0, tol=1e-10).fit(standard[:, None], ~wrong)  # 3^2: the prior
    scaling = fit_platt(score, wrong)
    slope = scaling.slope * score.std()
    assert slope == pytest.approx(logistic.coef_[0, 0], rel=2e-2)
    expected = logistic.predict_proba(standard[:, None])[:, 0]
    np.testing.assert_allclose(np.exp(scaling.log_errors(score)), expected, atol=2e-3)
    np.testing.assert_allclose(expit(-scaling.log_odds(score)), expected, atol=2e-3)


@pytest.mark.parametrize("wrong", [np.arange(6) < 3, np.arange(6) >= 3, np.zeros(6, dtype=bool)])
def test_the_map_keeps_the_order_of_any_score(wrong):
    score = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    errors = fit_platt(score, wrong).log_errors(score)
    assert np.isfinite(errors).all()
    assert (np.diff(errors) < 0).all()
