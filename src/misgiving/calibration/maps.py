"""Fitting of each map of a calibrator."""

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from misgiving.arrays import Classes, Logits, Members, Names, Rows, Values
from misgiving.calibration.apply import Isotonic, Pool, Scaling, pooled
from misgiving.scores.logits import cross_entropy

FOLDS = 5
PRIOR_IMAGES = 20.0  # images that equal weights of the error estimator's classifiers are worth
MOST_STEPS, ENOUGH = 1000, 1e-9  # of its weights
OPINION_SCALE = 0.5  # standard deviation of the prior of the weights of opinions, about none
LOG_T_SCALE = 0.7  # standard deviation of the prior of log T
BIAS_FREEDOM = 10.0  # degrees of freedom of the prior of the biases, whose scale is 1
POOL_SCALE, POOL_FREEDOM = 0.1, 1e9  # nearly normal, as a mean needs small corrections alone


def fit_scaling(
    logits: Logits, labels: Classes, *, scale: float = 1.0, freedom: float = BIAS_FREEDOM
) -> Scaling:
    """Fit temperature and biases by maximum likelihood with priors, of which this is the scale.

    The temperature's is log-normal: few images, all predicted right, say little about it. The
    biases' is a multivariate t with so many degrees of freedom: they are near 0 together, unless
    the images say otherwise, as for a classifier that was trained on other shares of the classes.
    """
    wide = logits.astype(np.float64)
    count, classes = wide.shape

    def objective(parameters: Values) -> tuple[float, Values]:
        log_t, biases = parameters[0], parameters[1:]
        loss, slopes = cross_entropy(wide / np.exp(log_t) + biases, labels)
        variance, squares = freedom * scale**2, (biases**2).sum()
        prior = (log_t / LOG_T_SCALE / scale) ** 2 / 2
        prior += (freedom + classes) / 2 * np.log1p(squares / variance)
        of_t = log_t / (LOG_T_SCALE * scale) ** 2 - (slopes * wide).sum() / np.exp(log_t)
        of_biases = (freedom + classes) / (variance + squares) * biases + slopes.sum(axis=0)
        return (prior + loss) / count, np.array([of_t, *of_biases]) / count

    solution = minimize(objective, np.zeros(1 + classes), jac=True, method="L-BFGS-B").x
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
    scaling = fit_scaling(pooled(members, fitted), labels, scale=POOL_SCALE, freedom=POOL_FREEDOM)
    return Pool(weights=fitted, scaling=scaling)


def fit_opinion_weights(members: Members, labels: Classes) -> Float[np.ndarray, " members"]:
    """Exponents of a logarithmic pool, none below 0, by maximum likelihood.

    A prior about 1, 0, ... shrinks them towards the first member alone.
    """
    alone, count = np.eye(members.shape[1])[0], len(labels)

    def objective(weights: Values) -> tuple[float, Values]:
        loss, slopes = cross_entropy(np.einsum("nmc,m->nc", members, weights), labels)
        away = weights - alone
        prior = (away**2).sum() / 2 / OPINION_SCALE**2
        of_weights = np.einsum("nc,nmc->m", slopes, members) + away / OPINION_SCALE**2
        return (prior + loss) / count, of_weights / count

    bounds = [(0, None)] * len(alone)
    return np.asarray(minimize(objective, alone, jac=True, method="L-BFGS-B", bounds=bounds).x)


def group_folds(groups: Names) -> list[tuple[Rows, Rows]]:
    """Positions that are kept and left out, for each fold; a group is in one fold.

    None where there are too few groups.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2 * FOLDS:
        return []
    return list(GroupKFold(FOLDS).split(groups, groups=groups))
