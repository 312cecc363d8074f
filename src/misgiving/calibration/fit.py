"""Fitting of calibrators on the tuning set, on which no threshold is set later."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from threadpoolctl import threadpool_limits

from misgiving.calibration.apply import (
    CALIBRATED,
    COMBINATION,
    ERROR_ESTIMATOR,
    LEARNED,
    ByClass,
    Calibrator,
    Classes,
    Combination,
    Isotonic,
    Logits,
    Members,
    Scaling,
    Scores,
    Values,
    columns,
    members_of,
    named_classes,
)
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.probes import Evidence

COMBINED = ("msp", "entropy", "max_logit", "energy", "knn", "predicted_loss", CALIBRATED)
SINGLE = ("msp", "entropy", "max_logit", "predicted_loss")
FOLDS = 5
PENALTIES = (0.01, 0.1, 1.0)  # inverse strengths
PRIOR_IMAGES = 20.0  # images that equal weights of the error estimator's classifiers are worth
MOST_STEPS, ENOUGH = 1000, 1e-9  # of its weights
FEWEST_OF_EACH = 10  # wrong and right answers from which a combination can be learned
ClassWeights = Callable[[Classes], ByClass | None]
Rows = Int[np.ndarray, " _"]
PRIOR_SCALE = 3.0  # standard deviation of the priors of log T, biases and Platt's parameters
LEAST_SLOPE = 1e-3  # of a standardised score by Platt's map, which keeps its order


def fit_scaling(logits: Logits, labels: Classes) -> Scaling:
    """Fit temperature and biases by maximum likelihood with a weak prior.

    The prior keeps the bias finite for a class with few or no cases, and the temperature where
    every prediction is right.
    """
    wide = logits.astype(np.float64)
    count, classes = wide.shape
    truth = np.eye(classes)[labels]

    def objective(parameters: Values) -> tuple[float, Values]:
        inverse, biases = np.exp(-parameters[0]), parameters[1:]
        log_probabilities = log_softmax(wide * inverse + biases, axis=1)
        slope = np.exp(log_probabilities) - truth
        value = -log_probabilities[truth > 0].sum() + (parameters**2).sum() / 2 / PRIOR_SCALE**2
        slopes = np.array([-(slope * wide).sum() * inverse, *slope.sum(axis=0)])
        return float(value) / count, (slopes + parameters / PRIOR_SCALE**2) / count

    solution = minimize(objective, np.zeros(classes + 1), jac=True, method="L-BFGS-B").x
    return Scaling(temperature=float(np.exp(solution[0])), biases=tuple(solution[1:].tolist()))


def fit_isotonic(
    inputs: Values, targets: Values, *, increasing: bool, margin: float = 0.0
) -> Isotonic:
    """Isotonic regression: the monotone map with the least squared error.

    Args:
        inputs: Values to map.
        targets: Values to predict.
        increasing: True where larger inputs give larger values.
        margin: Distance to keep from 0 and 1, which few samples cannot justify.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(increasing=increasing, out_of_bounds="clip")
    fitted.fit(inputs.astype(np.float64), targets.astype(np.float64))
    values = fitted.y_thresholds_
    if margin:
        values = values.clip(margin, 1 - margin)
    return Isotonic(knots=tuple(fitted.X_thresholds_.tolist()), values=tuple(values.tolist()))


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


def fit_error_estimator(members: Members, labels: Classes) -> tuple[float, ...]:
    """Fit weights of the classifiers, in a mean of their class probabilities, to the true classes.

    They maximise the likelihood, with a Dirichlet prior of equal weights that is worth
    `PRIOR_IMAGES` images, by expectation maximisation. What the weights are fitted to are classes,
    of which every image shows one, and not errors, of which a tuning set has few.
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
    return tuple(weights.tolist())


def group_folds(groups: Shaped[np.ndarray, " n"]) -> list[tuple[Rows, Rows]]:
    """Positions that are kept and left out, for each fold; a group is in one fold."""
    from sklearn.model_selection import GroupKFold

    return list(GroupKFold(FOLDS).split(groups, groups=groups))


class TuningSet(NamedTuple):
    """Outputs and labels of the images that calibrators are fitted on.

    Attributes:
        scores: Scores by name.
        logits: Class scores before the softmax.
        labels: True classes.
        groups: Samples of one group stay in one fold.
        evidence: Log-probabilities by the class probes; None without probes.
    """

    scores: Scores
    logits: Logits
    labels: Classes
    groups: Shaped[np.ndarray, " n"]
    evidence: Evidence | None = None

    @classmethod
    def of(cls, predictions: Predictions, detectors: FittedDetectors) -> "TuningSet":
        """The set of these predictions, scored by the detectors too."""
        return cls(
            all_scores(predictions, detectors),
            predictions.logits,
            predictions.labels,
            predictions.units,
            detectors.evidence(predictions.features, predictions.taps),
        )

    def select(self, rows: Int[np.ndarray, " _"]) -> "TuningSet":
        """These samples alone."""
        return TuningSet(
            {name: values[rows] for name, values in self.scores.items()},
            self.logits[rows],
            self.labels[rows],
            self.groups[rows],
            None if self.evidence is None else self.evidence[rows],
        )


def cross_fitted(tuning: TuningSet, weigh: ClassWeights) -> tuple[Classes, dict[str, Values]]:
    """Predicted classes and learned scores of each sample, fitted on the other groups alone.

    Where there are too few groups, classes are predicted in sample and there is no learned score;
    there is no combination where there are too few errors or right answers to learn from.
    """
    if len(np.unique(tuning.groups)) < 2 * FOLDS:
        return _fit_maps(tuning._replace(scores={}), weigh).predict(tuning.logits), {}
    folds = group_folds(tuning.groups)
    predicted, scores_of_folds = [], list[Scores]()
    for kept, left_out in folds:
        maps, others = _fit_maps(tuning.select(kept), weigh), tuning.select(left_out)
        scores = maps.with_learned(others.scores, others.logits, others.evidence)
        predicted.append(maps.predict(others.logits))
        scores_of_folds.append(scores)
    order = np.argsort(np.concatenate([left_out for _, left_out in folds]))
    names = [name for name in LEARNED if all(name in scores for scores in scores_of_folds)]
    return np.concatenate(predicted)[order], {
        name: np.concatenate([scores[name] for scores in scores_of_folds])[order] for name in names
    }


def _fit_maps(tuning: TuningSet, weigh: ClassWeights) -> Calibrator:
    """Fit what can be learned; accepts by the calibrated softmax, with its errors in sample."""
    scaling, weights = fit_scaling(tuning.logits, tuning.labels), weigh(tuning.labels)
    predicted = named_classes(scaling, weights, tuning.logits)
    wrong = predicted != tuning.labels
    maps = Calibrator(
        scaling=scaling,
        weights=None if weights is None else tuple(weights.tolist()),
        combination=None,
        error_estimator=None,
        score=CALIBRATED,
        error=_fit_error(scaling.log_odds(tuning.logits, predicted), wrong),
        loss=None,
        tried={},
        samples=len(wrong),
    )
    if tuning.scores and tuning.evidence is not None:
        members = members_of(scaling, tuning.logits, tuning.evidence)
        maps = replace(maps, error_estimator=fit_error_estimator(members, tuning.labels))
    if tuning.scores and _can_learn(wrong, tuning.groups):
        scores = maps.with_learned(tuning.scores, tuning.logits)
        maps = replace(maps, combination=fit_combination(scores, wrong, tuning.groups))
    return maps


def _can_learn(wrong: Bool[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]) -> bool:
    """True where the rest of each fold has right and wrong answers, and enough of them."""
    if min(wrong.sum(), (~wrong).sum()) < FEWEST_OF_EACH or len(np.unique(groups)) < FOLDS:
        return False
    return all(0 < wrong[kept].sum() < len(kept) for kept, _ in group_folds(groups))


class Fitted(NamedTuple):
    """A calibrator, and the tuning set as images that it was not fitted on.

    Attributes:
        calibrator: Fitted on the whole tuning set.
        predicted: The class of each tuning image, cross-fitted.
        candidates: All scores that could be the acceptance score; learned ones cross-fitted.
        wrong: True where its class, cross-fitted, is wrong.
    """

    calibrator: Calibrator
    predicted: Classes
    candidates: Scores
    wrong: Bool[np.ndarray, " n"]

    @property
    def scores(self) -> Values:
        """The acceptance score of each tuning image, cross-fitted."""
        return self.candidates[self.calibrator.score].astype(np.float64)

    def accepting_by(self, score: str) -> "Fitted":
        """The same with another acceptance score."""
        error = _fit_error(self.candidates[score], self.wrong)
        return self._replace(calibrator=replace(self.calibrator, score=score, error=error))


def fit_calibrator(tuning: TuningSet, weigh: ClassWeights = lambda _: None) -> Fitted:
    """Fit all maps on the tuning set, and choose the acceptance score.

    The acceptance score is the error estimator where its out-of-fold log-loss is lower than that of
    `calibrated`, and otherwise the one with the lowest AURC, out of fold for learned scores; of
    equal scores, one that is not learned.

    Args:
        tuning: The set, with scores among which are some of `SINGLE` and `COMBINED`.
        weigh: From true classes to the weights by which classes are predicted; None: by the logits.

    Raises:
        DataError: A score is not finite.
    """
    names = [name for name in dict.fromkeys(SINGLE + COMBINED) if name in tuning.scores]
    used, labels = {name: tuning.scores[name] for name in names}, tuning.labels
    tuning = tuning._replace(scores=used)
    for name, values in used.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"{name} is not finite at position {np.isfinite(values).argmin()} of the tuning "
                "set; predict again"
            )
    with threadpool_limits(1):  # for so few numbers, threads take longer to meet than to work
        choices, held_out = cross_fitted(tuning, weigh)
        maps = _fit_maps(tuning, weigh)
    candidates = {name: used[name] for name in SINGLE if name in used} | held_out
    wrong = choices != labels
    tried = {name: aurc(values, wrong) for name, values in candidates.items()}
    losses = -log_softmax(tuning.logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    predicted = used.get("predicted_loss")
    calibrator = replace(
        maps,
        combination=maps.combination if COMBINATION in held_out else None,
        error_estimator=maps.error_estimator if ERROR_ESTIMATOR in held_out else None,
        loss=None if predicted is None else fit_isotonic(predicted, losses, increasing=False),
        tried=tried,
    )
    fitted = Fitted(calibrator, choices, candidates, wrong)
    return fitted.accepting_by(_acceptance_score(tried, held_out, wrong))


def aurc(scores: Values, wrong: Bool[np.ndarray, " n"]) -> float:
    """Mean error among the accepted over all coverages, ties accepted in random order.

    As `metrics.selective.RiskCoverage.aurc`, without what that has for weights and replicates.
    """
    _, tied = np.unique(-scores, return_inverse=True)
    accepted, mistakes = (
        np.append(0.0, np.cumsum(np.bincount(tied, weights=values)))
        for values in (np.ones(len(tied)), wrong)
    )
    coverages = np.arange(1, len(tied) + 1)
    return float((np.interp(coverages, accepted, mistakes) / coverages).mean())


def _fit_error(scores: Values, wrong: Bool[np.ndarray, " n"]) -> Isotonic:
    """The error probability by acceptance score."""
    return fit_isotonic(scores, wrong * 1.0, increasing=False, margin=1 / (len(scores) + 2))


def _acceptance_score(
    tried: Mapping[str, float], learned: Scores, wrong: Bool[np.ndarray, " n"]
) -> str:
    if ERROR_ESTIMATOR in learned:
        losses = {name: log_loss_of(learned[name], wrong) for name in (ERROR_ESTIMATOR, CALIBRATED)}
        if losses[ERROR_ESTIMATOR] < losses[CALIBRATED]:
            return ERROR_ESTIMATOR
    others = [name for name in tried if name != ERROR_ESTIMATOR]
    return min(others, key=lambda name: tried[name])


def log_loss_of(scores: Values, wrong: Bool[np.ndarray, " n"]) -> float:
    """Mean negative log-likelihood of right and wrong answers by a score, after Platt scaling.

    The scaling makes scores comparable: a mean of probabilities is less confident than it is right.
    """
    slope, intercept = fit_platt(scores, wrong)
    log_odds = slope * scores + intercept
    return float(np.logaddexp(0, np.where(wrong, log_odds, -log_odds)).mean())


def fit_platt(scores: Values, wrong: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Slope and intercept of the log-odds of a right answer by a score (Platt, 1999).

    By maximum likelihood with a weak prior, which keeps them finite where the score separates right
    from wrong.
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
    solution = minimize(objective, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds).x
    slope = float(solution[0]) / scale
    return slope, float(solution[1]) - slope * centre
