"""Fitting of calibrators on the tuning set, on which no threshold is set later."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from misgiving.arrays import ByClass, Classes, Logits, Members, Names, Rows, Values
from misgiving.calibration.apply import (
    CALIBRATED,
    ERROR_ESTIMATOR,
    SECOND_OPINION,
    Calibrator,
    OpinionPool,
    Opinions,
    Pool,
    Scores,
    log_odds_of,
    log_pool,
    predicted_classes,
)
from misgiving.calibration.maps import (
    fit_error_estimator,
    fit_isotonic,
    fit_opinion_weights,
    fit_scaling,
    group_folds,
)
from misgiving.errors import DataError
from misgiving.metrics.selective import RiskCoverage
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.outputs import logarithms_of

UNLEARNED = ("msp", "predicted_loss")  # with more candidates chance decides where errors are few
ClassWeights = Callable[[Classes], ByClass | None]
Folds = Sequence[tuple[Rows, Rows]]


def fit_opinions(
    own: Logits, opinions: Opinions, labels: Classes, folds: Folds
) -> tuple[OpinionPool | None, Logits]:
    """Fit a pool to the model's cross-fitted log-probabilities; also give its own, cross-fitted.

    There is no pool where it does not make the true classes of the tuning set more likely by more
    than a factor e for each opinion (Akaike, 1974).
    """
    logits = [logarithms_of(each.astype(np.float64)) for each in opinions.values()]
    members = [own, *(_cross_fitted_scaling(each, labels, folds) for each in logits)]
    stacked, vectors = np.stack(members, axis=1), np.empty_like(own)
    for kept, left_out in folds:
        weights = fit_opinion_weights(stacked[kept], labels[kept])
        vectors[left_out] = log_pool(stacked[left_out], weights)
    weights, alone = fit_opinion_weights(stacked, labels), fit_opinion_weights(own[:, None], labels)
    gains = log_pool(stacked, weights) - log_pool(own[:, None], alone)
    if gains[np.arange(len(labels)), labels].sum() <= len(opinions):
        return None, vectors
    scalings = (fit_scaling(each, labels) for each in logits)
    scalings_by_name = dict(zip(opinions, scalings, strict=True))
    return OpinionPool(scalings=scalings_by_name, weights=tuple(weights.tolist())), vectors


def _cross_fitted_scaling(logits: Logits, labels: Classes, folds: Folds) -> Logits:
    """Calibrated log-probabilities of each image, fitted on the other folds, or on all."""
    vectors, everything = np.empty_like(logits), np.arange(len(labels))
    for kept, left_out in folds or [(everything, everything)]:
        others = fit_scaling(logits[kept], labels[kept])
        vectors[left_out] = others.logarithms(logits[left_out])
    return vectors


def _fit_estimator(
    members: Members, logits: Logits, labels: Classes, units: Names, folds: Folds
) -> tuple[Pool, Logits]:
    """Fit the error estimator to cross-fitted members; also give its vectors, cross-fitted.

    The calibrated softmax is cross-fitted within each fold, too: the probes have not seen the
    images that weigh them, and neither may it.
    """
    vectors = np.empty_like(logits)
    for kept, left_out in folds:
        seen = members[kept]
        seen[:, 0] = _cross_fitted_scaling(logits[kept], labels[kept], group_folds(units[kept]))
        vectors[left_out] = fit_error_estimator(seen, labels[kept])(members[left_out])
    return fit_error_estimator(members, labels), vectors


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


# for so few numbers, threads take longer to meet than to work
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def fit_calibrator(
    tuning: Predictions, detectors: FittedDetectors, weigh: ClassWeights = lambda _: None
) -> Fitted:
    """Fit all maps on the tuning set, and choose the acceptance score.

    The acceptance score is the error estimator where it gives the true classes of images that it
    was not fitted on a higher likelihood than the calibrated softmax. Otherwise it is the one of
    MSP, predicted loss and calibrated softmax (out of fold) with the lowest AURC, the first of
    equal ones. Second opinions take its place where they make the true classes more likely.

    Args:
        tuning: Images to fit on; those of one group are in one fold.
        detectors: With the class probes, fitted on the training set.
        weigh: From true classes to the weights by which classes are predicted; None: by the logits.

    Raises:
        DataError: Outputs are not finite.
    """
    scores = all_scores(tuning, detectors.only(()))
    logits, labels, units = tuning.logits.astype(np.float64), tuning.labels, tuning.units
    evidence, weights = detectors.evidence(tuning), weigh(labels)
    loss = scores.get("predicted_loss")
    if loss is not None and not np.isfinite(loss).all():
        position = np.isfinite(loss).argmin()
        raise DataError(
            f"predicted_loss is not finite at position {position} of the tuning set; predict again"
        )
    folds, truth, estimator = group_folds(units), (np.arange(len(labels)), labels), None
    vectors = _cross_fitted_scaling(logits, labels, folds)
    learned = {CALIBRATED: vectors} if folds else {}
    if evidence is not None and folds:
        members = np.concatenate([vectors[:, None], evidence], axis=1)
        estimator, learned[ERROR_ESTIMATOR] = _fit_estimator(members, logits, labels, units, folds)
    mixes = estimator is not None and learned[ERROR_ESTIMATOR][truth].sum() > vectors[truth].sum()
    vectors = learned[ERROR_ESTIMATOR] if mixes else vectors
    predicted = predicted_classes(vectors, weights, logits)
    candidates = {name: scores[name] for name in UNLEARNED if name in scores}
    candidates |= {name: log_odds_of(each, predicted) for name, each in learned.items()}
    wrong = predicted != labels
    tried = {name: float(RiskCoverage(each, wrong).aurc()) for name, each in candidates.items()}
    others = [name for name in tried if name != ERROR_ESTIMATOR]
    # equal areas are rounded apart where one score has ties among images that are right
    score = ERROR_ESTIMATOR if mixes else min(others, key=lambda name: round(tried[name], 12))
    pool = worth = None
    if tuning.opinions and folds:
        pool, joint = fit_opinions(vectors, tuning.opinions, labels, folds)
        candidates[SECOND_OPINION] = log_odds_of(joint, predicted)
        tried[SECOND_OPINION] = float(RiskCoverage(candidates[SECOND_OPINION], wrong).aurc())
        worth = tried[score] - tried[SECOND_OPINION]
    if pool is not None:
        pool, vectors = replace(pool, models=tuning.opinion_models), joint
    losses = tuning.true_losses()
    calibrator = Calibrator(
        scaling=fit_scaling(logits, labels),
        weights=None if weights is None else tuple(weights.tolist()),
        error_estimator=estimator if mixes or pool is None else None,
        score=score if pool is None else SECOND_OPINION,
        loss=None if loss is None else fit_isotonic(loss, losses, increasing=False),
        tried=tried,
        samples=len(labels),
        opinions=pool,
        opinion_worth=worth,
    )
    return Fitted(calibrator, vectors, predicted, candidates)
