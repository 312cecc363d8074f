"""Fitting of calibrators on the tuning set, on which no threshold is set later."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from misgiving.calibrators.apply import (
    CALIBRATED,
    COMBINATION,
    ByClass,
    Calibrator,
    Classes,
    Combination,
    Isotonic,
    Logits,
    Scaling,
    Scores,
    Values,
    columns,
    learned_scores,
    named_classes,
)
from misgiving.errors import DataError
from misgiving.metrics.selective import aurc

COMBINED = ("msp", "entropy", "max_logit", "energy", "knn", "predicted_loss", CALIBRATED)
SINGLE = ("msp", "entropy", "max_logit", "predicted_loss")
FOLDS = 5
PENALTIES = (0.01, 0.1, 1.0)  # inverse strengths
PROBABILITY_LOSS = make_scorer(  # the name "neg_log_loss" fails on a fold that has no error
    log_loss, labels=[False, True], response_method="predict_proba", greater_is_better=False
)
FEWEST_OF_EACH = 10  # wrong and right answers from which a combination can be learned
ClassWeights = Callable[[Classes], ByClass | None]
PRIOR_SCALE = 3.0  # standard deviation of the prior of log T and of a class's bias, in nats


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

    found = minimize(objective, np.zeros(classes + 1), jac=True, method="L-BFGS-B").x
    return Scaling(temperature=float(np.exp(found[0])), biases=tuple(found[1:].tolist()))


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
    names = tuple(name for name in COMBINED if name in scores)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": PENALTIES},
        scoring=PROBABILITY_LOSS,
        cv=list(GroupKFold(FOLDS).split(wrong, groups=groups)),
    )
    scaler, logistic = search.fit(columns(scores, names), wrong).best_estimator_
    return Combination(
        names=names,
        centres=tuple(scaler.mean_.tolist()),
        scales=tuple(scaler.scale_.tolist()),
        weights=tuple(logistic.coef_[0].tolist()),
        intercept=float(logistic.intercept_[0]),
    )


class Fold(NamedTuple):
    """Named classes, and learned scores, of images that they were not learned on."""

    named: Classes
    scores: dict[str, Values]


def cross_fitted(
    scores: Scores,
    logits: Logits,
    labels: Classes,
    groups: Shaped[np.ndarray, " n"],
    weigh: ClassWeights,
) -> Fold:
    """Named classes and learned scores of each sample, fitted on the other groups alone.

    Where there are too few groups, classes are named in sample and there is no learned score; there
    is no combination where there are too few errors or right answers to learn from.
    """
    if len(np.unique(groups)) < 2 * FOLDS:
        return Fold(named_classes(fit_scaling(logits, labels), weigh(labels), logits), {})
    folds = list(GroupKFold(FOLDS).split(labels, groups=groups))
    found = []
    for kept, left_out in folds:
        scaling, weights, combination = _fit_learned(
            _rows(scores, kept), logits[kept], labels[kept], groups[kept], weigh
        )
        named, others = named_classes(scaling, weights, logits[left_out]), _rows(scores, left_out)
        learned = learned_scores(scaling, combination, others, logits[left_out], named)
        found.append(Fold(named, learned))
    order = np.argsort(np.concatenate([left_out for _, left_out in folds]))
    names = [name for name in found[0].scores if all(name in one.scores for one in found)]
    return Fold(
        np.concatenate([one.named for one in found])[order],
        {name: np.concatenate([one.scores[name] for one in found])[order] for name in names},
    )


def _rows(scores: Scores, rows: Int[np.ndarray, " _"]) -> dict[str, Float[np.ndarray, " _"]]:
    return {name: values[rows] for name, values in scores.items()}


def _fit_learned(
    scores: Scores,
    logits: Logits,
    labels: Classes,
    groups: Shaped[np.ndarray, " n"],
    weigh: ClassWeights,
) -> tuple[Scaling, ByClass | None, Combination | None]:
    scaling, weights = fit_scaling(logits, labels), weigh(labels)
    named = named_classes(scaling, weights, logits)
    wrong = named != labels
    if not scores or not _can_learn(wrong, groups):
        return scaling, weights, None
    known = {**scores, **learned_scores(scaling, None, scores, logits, named)}
    return scaling, weights, fit_combination(known, wrong, groups)


def _can_learn(wrong: Bool[np.ndarray, " n"], groups: Shaped[np.ndarray, " n"]) -> bool:
    """True where the rest of each fold has right and wrong answers, and enough of them."""
    if min(wrong.sum(), (~wrong).sum()) < FEWEST_OF_EACH or len(np.unique(groups)) < FOLDS:
        return False
    folds = GroupKFold(FOLDS).split(wrong, groups=groups)
    return all(0 < wrong[kept].sum() < len(kept) for kept, _ in folds)


class Fitted(NamedTuple):
    """A calibrator, and the tuning set as images that it was not fitted on.

    Attributes:
        calibrator: Fitted on the whole tuning set.
        named: The class of each tuning image, cross-fitted.
        scores: Its acceptance score, cross-fitted.
    """

    calibrator: Calibrator
    named: Classes
    scores: Values


def fit_calibrator(
    scores: Scores,
    logits: Logits,
    labels: Classes,
    groups: Shaped[np.ndarray, " n"],
    weigh: ClassWeights = lambda _: None,
) -> Fitted:
    """Fit all maps on the tuning set, and choose the acceptance score.

    The acceptance score is the one with the lowest AURC, out of fold for learned scores; of equal
    scores, one that is not learned.

    Args:
        scores: Scores of the tuning set by name, among them some of `SINGLE` and `COMBINED`.
        logits: Class scores before the softmax.
        labels: True classes.
        groups: Samples of one group stay in one fold.
        weigh: From true classes to the weights by which classes are named; None: by the logits.

    Raises:
        DataError: There are too few samples, or a score is not finite.
    """
    used = {name: scores[name] for name in dict.fromkeys(SINGLE + COMBINED) if name in scores}
    _refuse_unusable(used)
    held_out = cross_fitted(used, logits, labels, groups, weigh)
    scaling, weights, combination = _fit_learned(used, logits, labels, groups, weigh)
    candidates = {name: used[name] for name in SINGLE if name in used} | held_out.scores
    wrong = held_out.named != labels
    tried = {name: float(aurc(values, wrong)) for name, values in candidates.items()}
    score = min(tried, key=lambda name: tried[name])
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    predicted = used.get("predicted_loss")
    calibrator = Calibrator(
        scaling=scaling,
        weights=None if weights is None else tuple(weights.tolist()),
        score=score,
        combination=combination if COMBINATION in held_out.scores else None,
        error=fit_isotonic(
            candidates[score], wrong * 1.0, increasing=False, margin=1 / (len(wrong) + 2)
        ),
        loss=None if predicted is None else fit_isotonic(predicted, losses, increasing=False),
        tried=tried,
        samples=len(labels),
    )
    return Fitted(calibrator, held_out.named, candidates[score].astype(np.float64))


def _refuse_unusable(scores: Scores) -> None:
    for name, values in scores.items():
        if len(values) < 2:
            raise DataError(f"the tuning set has {len(values)} images; give more to learn from")
        if not np.isfinite(values).all():
            position = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(
                f"{name} is not finite at position {position} of the tuning set; predict again"
            )
