"""Fitting of calibrators on the tuning set, on which no threshold is set later."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy.optimize import minimize
from scipy.special import log_softmax
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
    Pool,
    Scaling,
    Scores,
    Values,
    columns,
    members_of,
    pooled,
    predicted_classes,
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
Fold = tuple[Calibrator, Rows]
"""A calibrator that is fitted on the other folds, and the positions of this one."""
PRIOR_SCALE = 3.0  # standard deviation of the priors of log T and of the biases
POOL_SCALE = 0.1  # the same of the error estimator's: a mean needs small corrections


def fit_scaling(logits: Logits, labels: Classes, scale: float = PRIOR_SCALE) -> Scaling:
    """Fit temperature and biases by maximum likelihood with a prior of this standard deviation.

    The prior keeps the bias finite for a class with few or no cases, and the temperature where
    every prediction is right.
    """
    wide = logits.astype(np.float64)
    count, classes = wide.shape
    truth = np.arange(count), labels

    def objective(parameters: Values) -> tuple[float, Values]:
        inverse, biases = np.exp(-parameters[0]), parameters[1:]
        log_probabilities = log_softmax(wide * inverse + biases, axis=1)
        slope = np.exp(log_probabilities)
        slope[truth] -= 1
        value = -log_probabilities[truth].sum() + (parameters**2).sum() / 2 / scale**2
        slopes = np.array([-(slope * wide).sum() * inverse, *slope.sum(axis=0)])
        return float(value) / count, (slopes + parameters / scale**2) / count

    solution = minimize(objective, np.zeros(classes + 1), jac=True, method="L-BFGS-B").x
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


def group_folds(groups: Shaped[np.ndarray, " n"]) -> list[tuple[Rows, Rows]]:
    """Positions that are kept and left out, for each fold; a group is in one fold.

    None where there are too few groups.
    """
    from sklearn.model_selection import GroupKFold

    if len(np.unique(groups)) < 2 * FOLDS:
        return []
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


def _fit_maps(tuning: TuningSet, weights: ByClass | None) -> Calibrator:
    """Fit what can be learned; accepts by the calibrated softmax."""
    scaling, folds = fit_scaling(tuning.logits, tuning.labels), group_folds(tuning.groups)
    maps = Calibrator(
        scaling=scaling,
        weights=None if weights is None else tuple(weights.tolist()),
        combination=None,
        error_estimator=None,
        score=CALIBRATED,
        loss=None,
        tried={},
        samples=len(tuning.labels),
    )
    if tuning.evidence is not None:
        members = members_of(scaling, tuning.logits, tuning.evidence)
        for kept, left_out in folds:  # the probes have not seen it either
            others = fit_scaling(tuning.logits[kept], tuning.labels[kept])
            members[left_out, 0] = others.logarithms(tuning.logits[left_out])
        maps = replace(maps, error_estimator=fit_error_estimator(members, tuning.labels))
    wrong = maps.predict(tuning.logits) != tuning.labels
    enough = min(wrong.sum(), (~wrong).sum()) >= FEWEST_OF_EACH
    mixed = all(0 < wrong[kept].sum() < len(kept) for kept, _ in folds)
    if tuning.scores and folds and enough and mixed:
        scores = maps.with_learned(tuning.scores, tuning.logits)
        maps = replace(maps, combination=fit_combination(scores, wrong, tuning.groups))
    return maps


class Fitted(NamedTuple):
    """A calibrator, and the tuning set as images that it was not fitted on.

    Attributes:
        calibrator: Fitted on the whole tuning set.
        vectors: Log-probabilities by class of each tuning image, cross-fitted.
        predicted: The class of each tuning image, cross-fitted.
        candidates: All scores that could be the acceptance score; learned ones cross-fitted.
    """

    calibrator: Calibrator
    vectors: Logits
    predicted: Classes
    candidates: Scores

    @property
    def scores(self) -> Values:
        """The acceptance score of each tuning image, cross-fitted."""
        return self.candidates[self.calibrator.score].astype(np.float64)


def fit_calibrator(tuning: TuningSet, weigh: ClassWeights = lambda _: None) -> Fitted:
    """Fit all maps on the tuning set, and choose the acceptance score.

    The acceptance score is the error estimator where it gives the true classes of images that it
    was not fitted on a higher likelihood than the calibrated softmax. Otherwise it is the score
    with the lowest AURC, out of fold for learned scores; of equal scores, one that is not learned.

    Args:
        tuning: The set, with scores among which are some of `SINGLE` and `COMBINED`.
        weigh: From true classes to the weights by which classes are predicted; None: by the logits.

    Raises:
        DataError: A score is not finite.
    """
    names = [name for name in dict.fromkeys(SINGLE + COMBINED) if name in tuning.scores]
    used, labels = {name: tuning.scores[name] for name in names}, tuning.labels
    logits = tuning.logits.astype(np.float64)
    tuning, weights = tuning._replace(scores=used, logits=logits), weigh(labels)
    for name, values in used.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"{name} is not finite at position {np.isfinite(values).argmin()} of the tuning "
                "set; predict again"
            )
    with threadpool_limits(1):  # for so few numbers, threads take longer to meet than to work
        maps = _fit_maps(tuning, weights)
        folds = [
            (_fit_maps(tuning.select(kept), weights), left_out)
            for kept, left_out in group_folds(tuning.groups)
        ]
    vectors, mixes = _likelier_vectors(tuning, maps, folds)
    predicted = predicted_classes(vectors, weights, logits)
    held_out = _held_out_scores(tuning, folds, predicted)
    candidates = {name: used[name] for name in SINGLE if name in used} | held_out
    tried = {name: aurc(values, predicted != labels) for name, values in candidates.items()}
    others = [name for name in tried if name != ERROR_ESTIMATOR]
    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    loss = used.get("predicted_loss")
    calibrator = replace(
        maps,
        combination=maps.combination if COMBINATION in held_out else None,
        error_estimator=maps.error_estimator if ERROR_ESTIMATOR in held_out else None,
        score=ERROR_ESTIMATOR if mixes else min(others, key=lambda name: tried[name]),
        loss=None if loss is None else fit_isotonic(loss, losses, increasing=False),
        tried=tried,
    )
    return Fitted(calibrator, vectors, predicted, candidates)


def _likelier_vectors(
    tuning: TuningSet, maps: Calibrator, folds: Sequence[Fold]
) -> tuple[Logits, bool]:
    """Cross-fitted log-probabilities by class, and whether they are those of the error estimator.

    With too few groups for folds, they are those of the softmax in sample.
    """
    if not folds:
        return maps.log_probabilities(tuning.logits), False
    vectors = {score: np.empty(tuning.logits.shape) for score in (CALIBRATED, ERROR_ESTIMATOR)}
    for fitted, rows in folds:
        others = tuning.select(rows)
        for score, of_all in vectors.items():
            judging = replace(fitted, score=score)
            of_all[rows] = judging.log_probabilities(others.logits, others.evidence)
    of_truth = {
        score: of_all[np.arange(len(of_all)), tuning.labels].sum()
        for score, of_all in vectors.items()
    }
    mixes = bool(of_truth[ERROR_ESTIMATOR] > of_truth[CALIBRATED])
    return vectors[ERROR_ESTIMATOR if mixes else CALIBRATED], mixes


def _held_out_scores(
    tuning: TuningSet, folds: Sequence[Fold], predicted: Classes
) -> dict[str, Values]:
    """Learned scores of each sample, fitted on the other groups alone; none without folds.

    There is no combination where there are too few errors or right answers to learn from.
    """
    learned = {name: np.full(len(predicted), np.nan) for name in LEARNED}
    for fitted, rows in folds:
        others = tuning.select(rows)
        scores = fitted.with_learned(others.scores, others.logits, others.evidence, predicted[rows])
        for name, values in learned.items():
            values[rows] = scores.get(name, np.nan)
    return {name: values for name, values in learned.items() if not np.isnan(values).any()}


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
