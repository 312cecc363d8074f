"""Fitting of each map of a calibrator."""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import minimize
from scipy.special import log_softmax

from misgiving.calibration.apply import (
    CALIBRATED,
    Classes,
    Combination,
    Isotonic,
    Logits,
    Members,
    Pool,
    Scaling,
    Scores,
    Values,
    columns,
    log_pool,
    pooled,
)

COMBINED = ("msp", "entropy", "max_logit", "energy", "knn", "predicted_loss", CALIBRATED)
FOLDS = 5
PENALTIES = (0.01, 0.1, 1.0)  # inverse strengths
PRIOR_IMAGES = 20.0  # images that equal weights of the error estimator's classifiers are worth
MOST_STEPS, ENOUGH = 1000, 1e-9  # of its weights
MIN_PER_CLASS = 5  # images of a class on average from which on its bias can be learned
OPINION_SCALE = 0.5  # standard deviation of the prior of the weights of opinions, about none
PRIOR_SCALE = 3.0  # standard deviation of the priors of log T and of the biases
POOL_SCALE = 0.1  # the same of the error estimator's: a mean needs small corrections
Rows = Int[np.ndarray, " _"]


def fit_scaling(logits: Logits, labels: Classes, scale: float = PRIOR_SCALE) -> Scaling:
    """Fit temperature and biases by maximum likelihood with a prior of this standard deviation.

    The prior keeps the bias finite for a class with few or no cases, and the temperature where
    every prediction is right. With less than `MIN_PER_CLASS` images a class there are no biases.
    """
    wide = logits.astype(np.float64)
    count, classes = wide.shape
    truth = np.arange(count), labels
    free = 1 + (classes if count >= MIN_PER_CLASS * classes else 0)

    def objective(parameters: Values) -> tuple[float, Values]:
        inverse, biases = np.exp(-parameters[0]), parameters[1:] if free > 1 else 0.0
        log_probabilities = log_softmax(wide * inverse + biases, axis=1)
        slope = np.exp(log_probabilities)
        slope[truth] -= 1
        value = -log_probabilities[truth].sum() + (parameters**2).sum() / 2 / scale**2
        slopes = np.array([-(slope * wide).sum() * inverse, *slope.sum(axis=0)][:free])
        return float(value) / count, (slopes + parameters / scale**2) / count

    solution = np.zeros(1 + classes)
    solution[:free] = minimize(objective, np.zeros(free), jac=True, method="L-BFGS-B").x
    return Scaling(temperature=float(np.exp(solution[0])), biases=tuple(solution[1:].tolist()))


def fit_isotonic(inputs: Values, targets: Values, *, increasing: bool) -> Isotonic:
    """Isotonic regression: the monotone map with the least squared error.

    Args:
        inputs: Values to map.
        targets: Values to predict.
        increasing: True where larger inputs give larger values.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=increasing, out_of_bounds="clip")
    fitted.fit(inputs.astype(np.float64), targets.astype(np.float64))
    knots, values = fitted.X_thresholds_, fitted.y_thresholds_
    return Isotonic(knots=tuple(knots.tolist()), values=tuple(values.tolist()))


def fit_combination(
    scores: Scores, wrong: Bool[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]
) -> Combination:
    """Fit penalised logistic regression; the penalty is cross-validated over groups."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    names = tuple(name for name in COMBINED if name in scores)
    table, folds = columns(scores, names), group_folds(groups)

    def fitted(rows: Rows, penalty: float) -> tuple[StandardScaler, LogisticRegression]:
        scaler = StandardScaler().fit(table[rows])
        logistic = LogisticRegression(C=penalty, max_iter=1000)
        return scaler, logistic.fit(scaler.transform(table[rows]), wrong[rows])

    def log_loss(penalty: float) -> float:
        losses = []
        for kept, left_out in folds:
            scaler, logistic = fitted(kept, penalty)
            log_odds = logistic.decision_function(scaler.transform(table[left_out]))
            losses.append(np.logaddexp(0, np.where(wrong[left_out], -log_odds, log_odds)).mean())
        return float(np.mean(losses))

    scaler, logistic = fitted(np.arange(len(wrong)), min(PENALTIES, key=log_loss))
    return Combination(
        names=names,
        centres=tuple(scaler.mean_.tolist()),
        scales=tuple(scaler.scale_.tolist()),
        weights=tuple(logistic.coef_[0].tolist()),
        intercept=float(logistic.intercept_[0]),
    )


def fit_error_estimator(members: Members, labels: Classes) -> Pool:
    """Fit the classifiers' weights, and then the scaling of their mean, to the true classes.

    The weights maximise the likelihood, with a Dirichlet prior of equal weights that is worth
    `PRIOR_IMAGES` images, by expectation maximisation. They are fitted to classes, of which every
    image shows one, and not to errors, of which a tuning set has few.
    """
    logs = members[np.arange(len(labels)), :, labels]
    likelihoods = np.exp(logs - logs.max(axis=1, keepdims=True))
    equal = np.full(logs.shape[1], 1 / logs.shape[1])
    weights = equal
    for _ in range(MOST_STEPS):
        shares = likelihoods * weights
        shares /= shares.sum(axis=1, keepdims=True)
        before = weights
        weights = (shares.sum(axis=0) + PRIOR_IMAGES * equal) / (len(labels) + PRIOR_IMAGES)
        if np.abs(weights - before).max() < ENOUGH:
            break
    fitted = tuple(weights.tolist())
    scaling = fit_scaling(pooled(members, fitted), labels, POOL_SCALE)
    return Pool(weights=fitted, scaling=scaling)


def fit_opinion_weights(members: Members, labels: Classes) -> Float[np.ndarray, " members"]:
    """Exponents of a logarithmic pool, none below 0, by maximum likelihood.

    A prior about 1, 0, ... shrinks them towards the first member alone.
    """
    alone, truth = np.eye(members.shape[1])[0], (np.arange(len(labels)), labels)
    of_truth = members[truth[0], :, labels].sum(axis=0)

    def objective(weights: Values) -> tuple[float, Values]:
        vectors, away = log_pool(members, weights), weights - alone
        expected = np.einsum("nc,nmc->m", np.exp(vectors), members)
        value = -vectors[truth].sum() + (away**2).sum() / 2 / OPINION_SCALE**2
        slopes = expected - of_truth + away / OPINION_SCALE**2
        return float(value) / len(labels), slopes / len(labels)

    bounds = [(0, None)] * len(alone)
    return np.asarray(minimize(objective, alone, jac=True, method="L-BFGS-B", bounds=bounds).x)


def group_folds(groups: Shaped[np.ndarray, " n"]) -> list[tuple[Rows, Rows]]:
    """Positions that are kept and left out, for each fold; a group is in one fold.

    None where there are too few groups.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2 * FOLDS:
        return []
    return list(GroupKFold(FOLDS).split(groups, groups=groups))
