"""Platt scaling: the probability of a right answer by logistic regression on one score."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy.optimize import minimize
from scipy.special import expit

from misgiving.calibration.apply import Values

PRIOR_SCALE = 3.0  # standard deviation of the prior of the slope and of the intercept
LEAST_SLOPE = 1e-3  # of a standardised score: the map keeps its order


@dataclass(frozen=True, kw_only=True)
class PlattScaling:
    """Logistic map from a score to the probability of a right answer (Platt, 1999).

    Attributes:
        slope: Of the log-odds of a right answer.
        intercept: Of the same log-odds.
    """

    slope: float
    intercept: float

    def log_odds(self, scores: Values) -> Values:
        """Log-odds of a right answer."""
        return np.asarray(self.slope * scores + self.intercept)

    def log_errors(self, scores: Values) -> Values:
        """Logarithms of the error probabilities."""
        return -np.asarray(np.logaddexp(0.0, self.log_odds(scores)))


def fit_platt(scores: Values, wrong: Bool[np.ndarray, " n"]) -> PlattScaling:
    """Fit Platt's logistic map by maximum likelihood with a weak prior.

    The prior keeps it finite where the score separates right from wrong.
    """
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    standard = (scores - centre) / scale

    def objective(parameters: Values) -> tuple[float, Values]:
        slope, intercept = parameters
        log_odds = slope * standard + intercept
        value = np.logaddexp(0.0, np.where(wrong, log_odds, -log_odds)).sum()
        residuals = expit(log_odds) - ~wrong
        slopes = np.array([residuals @ standard, residuals.sum()])
        prior = (parameters**2).sum() / 2 / PRIOR_SCALE**2
        slopes += parameters / PRIOR_SCALE**2
        return float(value + prior) / len(wrong), slopes / len(wrong)

    bounds = [(LEAST_SLOPE, None), (None, None)]
    found = minimize(objective, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds).x
    slope = float(found[0]) / scale
    return PlattScaling(slope=slope, intercept=float(found[1]) - slope * centre)
