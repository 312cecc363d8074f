"""Fitting of calibrators on the tuning set, on which no threshold is set later."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from misgiving.calibration.apply import (
    CALIBRATED,
    COMBINATION,
    ERROR_ESTIMATOR,
    LEARNED,
    SECOND_OPINION,
    ByClass,
    Calibrator,
    Classes,
    Logits,
    OpinionPool,
    Opinions,
    Scores,
    Values,
    log_odds_of,
    log_pool,
    logarithms_of,
    members_of,
    predicted_classes,
)
from misgiving.calibration.maps import (
    COMBINED,
    Rows,
    fit_combination,
    fit_error_estimator,
    fit_isotonic,
    fit_opinion_weights,
    fit_scaling,
    group_folds,
)
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores
from misgiving.scores.probes import Evidence

SINGLE = ("msp", "entropy", "max_logit", "predicted_loss")
FEWEST_OF_EACH = 10  # wrong and right answers from which a combination can be learned
ClassWeights = Callable[[Classes], ByClass | None]
Fold = tuple[Calibrator, Rows]
"""A calibrator that is fitted on the other folds, and the positions of this one."""


def fit_opinions(
    own: Logits, opinions: Opinions, labels: Classes, folds: Sequence[tuple[Rows, Rows]]
) -> tuple[OpinionPool | None, Logits]:
    """Fit a pool to the model's cross-fitted log-probabilities; also give its own, cross-fitted.

    There is no pool where it does not make the true classes of the tuning set more likely by more
    than a factor e for each opinion (Akaike, 1974).
    """
    logits = [*map(logarithms_of, opinions.values())]
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


def _cross_fitted_scaling(
    logits: Logits, labels: Classes, folds: Sequence[tuple[Rows, Rows]]
) -> Logits:
    """Calibrated log-probabilities of each image, fitted on the other folds."""
    vectors = np.empty_like(logits)
    for kept, left_out in folds:
        others = fit_scaling(logits[kept], labels[kept])
        vectors[left_out] = others.logarithms(logits[left_out])
    return vectors


class TuningSet(NamedTuple):
    """Outputs and labels of the images that calibrators are fitted on.

    Attributes:
        scores: Scores by name.
        logits: Class scores before the softmax.
        labels: True classes.
        groups: Samples of one group stay in one fold.
        evidence: Log-probabilities by the class probes; None without probes.
        opinions: Probabilities by other models.
        opinion_models: Fingerprints of these models, by name.
    """

    scores: Scores
    logits: Logits
    labels: Classes
    groups: Shaped[np.ndarray, " n"]
    evidence: Evidence | None = None
    opinions: Opinions | None = None
    opinion_models: Mapping[str, str] = {}

    @classmethod
    def of(cls, predictions: Predictions, detectors: FittedDetectors) -> "TuningSet":
        """The set of these predictions, scored by the detectors too."""
        return cls(
            all_scores(predictions, detectors),
            predictions.logits,
            predictions.labels,
            predictions.units,
            detectors.evidence(predictions.features, predictions.taps),
            predictions.opinions,
            predictions.opinion_models,
        )

    def select(self, rows: Int[np.ndarray, " _"]) -> "TuningSet":
        """These samples alone, without opinions."""
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
        if folds:  # the probes have not seen it either
            members[:, 0] = _cross_fitted_scaling(tuning.logits, tuning.labels, folds)
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


# for so few numbers, threads take longer to meet than to work
@threadpool_limits.wrap(limits=1)  # type: ignore[untyped-decorator]
def fit_calibrator(tuning: TuningSet, weigh: ClassWeights = lambda _: None) -> Fitted:
    """Fit all maps on the tuning set, and choose the acceptance score.

    The acceptance score is the error estimator where it gives the true classes of images that it
    was not fitted on a higher likelihood than the calibrated softmax. Otherwise it is the score
    with the lowest AURC, out of fold for learned scores; of equal scores, one that is not learned.
    Second opinions take its place where they make the true classes more likely.

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
    maps = _fit_maps(tuning, weights)
    pairs = group_folds(tuning.groups)
    folds = [(_fit_maps(tuning.select(most), weights), left_out) for most, left_out in pairs]
    vectors, mixes = _likelier_vectors(tuning, maps, folds)
    predicted = predicted_classes(vectors, weights, logits)
    held_out = _held_out_scores(tuning, folds, predicted)
    candidates = {name: used[name] for name in SINGLE if name in used} | held_out
    tried = {name: aurc(values, predicted != labels) for name, values in candidates.items()}
    others = [name for name in tried if name != ERROR_ESTIMATOR]
    score = ERROR_ESTIMATOR if mixes else min(others, key=lambda name: tried[name])
    pool = worth = None
    if tuning.opinions and folds:
        pool, joint = fit_opinions(vectors, tuning.opinions, labels, pairs)
        candidates[SECOND_OPINION] = log_odds_of(joint, predicted)
        tried[SECOND_OPINION] = aurc(candidates[SECOND_OPINION], predicted != labels)
        worth = tried[score] - tried[SECOND_OPINION]
    if pool is not None:
        pool, vectors = replace(pool, models=tuning.opinion_models), joint
    keeps = ERROR_ESTIMATOR in held_out and pool is None
    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    loss = used.get("predicted_loss")
    calibrator = replace(
        maps,
        combination=maps.combination if COMBINATION in held_out else None,
        error_estimator=maps.error_estimator if mixes or keeps else None,
        score=score if pool is None else SECOND_OPINION,
        loss=None if loss is None else fit_isotonic(loss, losses, increasing=False),
        tried=tried,
        opinions=pool,
        opinion_worth=worth,
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
