"""Choose the images that a policy is fitted on, and score them as its cases."""

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from misgiving.calibration.apply import Calibrator
from misgiving.calibration.fit import Fitted, TuningSet, cross_fitted, fit_calibrator
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.rules import DecisionRule
from misgiving.deferral.scored_cases import ScoredCases, one_per_group
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError, UsageError
from misgiving.groups import QUARTERS, partition_groups
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores, evidence_of
from misgiving.scores.features import FEATURE_SCORES

MOST_TUNED = 20_000  # groups to tune on; more would be slow, and bring nothing
PREDICTED_LOSS = "predicted_loss"
MOST_PROBABLE = DecisionRule()
OWN_SETS = ("tune", "calibrate")
FREE = ("", "validation")
NOT_USED = ("train", "test", "excluded")


class FittingSets(NamedTuple):
    """The images that a policy is fitted on, and the detectors that are.

    Attributes:
        drawn_parts: Number of parts of the images of which one was drawn for tuning; 0: the data
            name both sets.
        training_images: Images that the detectors are fitted on.
        left_out: Other images of the data, by their set.
    """

    tuning: Predictions
    calibration: Predictions
    detectors: FittedDetectors
    drawn_parts: int
    training_images: int
    left_out: Mapping[str, int]

    @classmethod
    def of(
        cls, tuning: Any, calibration: Any, training: Any, *, classes: Any, seed: int
    ) -> "FittingSets":
        """Choose the sets as `Deferral.fit` says, and fit the detectors."""
        parts, left_out = 0, dict[str, int]()
        if calibration is None:
            everything = Predictions.of(tuning, classes=classes)
            tuning, calibration, parts = drawn_sets(everything, seed=seed)
            left_out = dict(Counter(everything.sets or ()))
            training = everything.in_set("train") if training is None else training
        else:
            tuning = Predictions.of(tuning, classes=classes, name="tuning")
            calibration = Predictions.of(calibration, classes=classes, name="calibration")
            check_copies(tuning, calibration)
        check_sets(tuning, calibration)
        if training is not None:
            training = Predictions.of(training, classes=classes, name="training")
        detectors = fit_detectors(training, tuning.classes)
        fitted_on = len(training) if detectors.names else 0
        counts = {name: left_out[name] for name in NOT_USED if name in left_out}
        return cls(tuning, calibration, detectors, parts, fitted_on, counts)


def drawn_sets(predictions: Predictions, *, seed: int) -> tuple[Predictions, Predictions, int]:
    """The images to tune on, those to certify with, and the number of parts for the first.

    These are the sets `tune` and `calibrate`, and the number is 0; or else a part, by group, of
    the images in no set or in the validation set, and the others of these. Images of a group that
    is also in another set are left out.

    Raises:
        DataError: There are no such images, or too few groups.
    """
    sets = np.array(predictions.sets or ("",) * len(predictions))
    present = [(sets == name).any() for name in OWN_SETS]
    if all(present):
        tuning, calibration = map(predictions.in_set, OWN_SETS)
        return tuning, calibration, 0
    if any(present):
        raise DataError(
            f"no row is in the set {OWN_SETS[present.index(False)]!r}; name the set of each row, "
            "or leave out the column to have the sets drawn"
        )
    units = predictions.units
    offered = np.isin(sets, FREE)
    free = np.flatnonzero(offered & ~np.isin(units, units[~offered]))
    if not len(free):
        raise DataError(
            "all images were used for training or are only measured; give labelled images that "
            "are new to the model"
        )
    predictions.select(free).check_labelled()
    parts = max(QUARTERS, math.ceil(len(np.unique(units[free])) / MOST_TUNED))
    drawn = partition_groups(units[free], parts, seed=seed)[0]
    tuning, calibration = (
        predictions.select(rows) for rows in (free[drawn], np.delete(free, drawn))
    )
    return tuning, calibration, parts


def check_sets(tuning: Predictions, calibration: Predictions) -> None:
    """Check that both sets are labelled, of one model, and of different images.

    Raises:
        DataError: They are not.
    """
    for predictions in (tuning, calibration):
        predictions.check_labelled()
    if (tuning.model, tuning.classes) != (calibration.model, calibration.classes):
        raise DataError(
            "the predictions for the tuning set and the calibration set are of two models; "
            "predict both again"
        )
    shared = sorted(set(tuning.groups) & set(calibration.groups) - {""})
    if tuning.has_ids and calibration.has_ids:
        shared += sorted(set(tuning.ids) & set(calibration.ids))
    if shared:
        others = f", as are {len(shared) - 1} others" if len(shared) > 1 else ""
        raise DataError(
            f"group {shared[0]!r} is in both the tuning set and the calibration set{others}; "
            "calibrate on groups that nothing was chosen on"
        )


def check_copies(tuning: Predictions, calibration: Predictions) -> None:
    """Check that the calibration set does not have the images of the tuning set by other names.

    An image is known by its logits. Rounded ones are alike for many images, so that only rows that
    occur once count, and more than half of these must occur in both sets.

    Raises:
        DataError: It has them.
    """
    once = []
    for predictions in (tuning, calibration):
        rows, counts = np.unique(
            np.ascontiguousarray(predictions.logits), axis=0, return_counts=True
        )
        once.append({row.tobytes() for row in rows[counts == 1]})
    shared = len(once[0] & once[1])
    if 2 * shared > min(map(len, once)):
        raise DataError(
            f"{shared} rows of the calibration set are also in the tuning set; give images that "
            "nothing was chosen on"
        )


def fit_detectors(training: Predictions | None, classes: tuple[str, ...]) -> FittedDetectors:
    """Fit detectors on the training images; there are none without features.

    Raises:
        DataError: An image has no label, or the classes are not these in this order.
    """
    if training is None or not len(training):
        return FittedDetectors.none()
    if training.classes != classes:
        raise DataError(
            f"the training set has the classes {', '.join(training.classes)}, and the tuning set "
            f"{', '.join(classes)}; give the same in the same order"
        )
    if training.features is None:
        return FittedDetectors.none()
    training.check_labelled()
    return FittedDetectors.fit(training)


def tuning_set(tuning: Predictions, detectors: FittedDetectors | None = None) -> TuningSet:
    """The images as calibrators are fitted on them; without detectors, without any score."""
    return TuningSet(
        {} if detectors is None else all_scores(tuning, detectors),
        tuning.logits,
        tuning.labels,
        tuning.units,
        None if detectors is None else evidence_of(tuning, detectors),
    )


def fit_calibration(
    tuning: Predictions, detectors: FittedDetectors, rule: DecisionRule = MOST_PROBABLE
) -> Fitted:
    """Fit the calibration on the tuning set, for the classes that a rule names."""
    return fit_calibrator(
        tuning_set(tuning, detectors), partial(rule.class_weights, tuning.classes)
    )


def scored_cases(
    predictions: Predictions,
    detectors: FittedDetectors,
    calibrator: Calibrator,
    rule: DecisionRule,
    *,
    ood_detector: str,
    of_tuning: Fitted | None = None,
) -> ScoredCases:
    """All images as cases of a policy; draw one of each group before anything is certified.

    Args:
        predictions: Of the images.
        detectors: Fitted on the training set.
        calibrator: Fitted on the tuning set, for the classes that the rule names.
        rule: Names the classes.
        ood_detector: Name of the OOD score.
        of_tuning: Cross-fitted classes and scores of the tuning set, where these are its images.

    Raises:
        DataError: Outputs or scores are not finite, or lack what the acceptance score reads.
        UsageError: There is no such OOD score, or the detectors read other features or taps.
    """
    scores = all_scores(predictions, detectors)
    if ood_detector not in scores:
        raise UsageError(f"{_missing(ood_detector)}; choose from {', '.join(scores)}")
    if of_tuning is None:
        predicted = calibrator.predict(predictions.logits)
        evidence = evidence_of(predictions, detectors)
        acceptance = calibrator.acceptance_scores(scores, predictions.logits, evidence)
    else:
        predicted, acceptance = of_tuning.predicted, of_tuning.scores
    errors = calibrator.error(acceptance)
    probabilities = calibrator.probabilities(predictions.logits, predicted, errors)
    return ScoredCases(
        scores=acceptance,
        ood_scores=scores[ood_detector],
        wrong=predicted != predictions.labels,
        labels=predictions.labels,
        acceptable=rule.acceptable(errors, probabilities, predicted),
    )


def certify(
    tuning: Predictions,
    calibration: Predictions,
    detectors: FittedDetectors,
    fitted: Fitted,
    targets: Targets,
    rule: DecisionRule,
    *,
    ood_detector: str,
    seed: int,
) -> Certificate:
    """Choose and certify thresholds on one image of each group, drawn with the seed."""
    tuning_cases, calibration_cases = (
        scored_cases(
            predictions,
            detectors,
            fitted.calibrator,
            rule,
            ood_detector=ood_detector,
            of_tuning=of_tuning,
        )[one_per_group(predictions.units, seed=seed)]
        for predictions, of_tuning in ((tuning, fitted), (calibration, None))
    )
    return certify_thresholds(tuning_cases, calibration_cases, targets, classes=calibration.classes)


def _missing(ood_detector: str) -> str:
    """A clause on the columns that a score needs and the predictions lack."""
    score = FEATURE_SCORES.get(ood_detector)
    if ood_detector == PREDICTED_LOSS:
        needs = f"the column {PREDICTED_LOSS}"
    elif score is None:
        return f"unknown detector {ood_detector!r}"
    elif score.reads_taps:
        needs = "the averages of the taps, which a CSV file does not have"
    elif score.needs_head:
        needs = "the last layer, which a CSV file does not have"
    else:
        needs = "features of training images: columns feature_0, ..., and rows of the set train"
    return f"`ood_detector` {ood_detector!r} needs {needs}"


def sensitivities_by_rule(
    tuning: Predictions, chosen: DecisionRule
) -> Mapping[str, Mapping[str, float]]:
    """The sensitivity for each class that occurs, by rule; that of costs only where given."""
    rules = [DecisionRule(), DecisionRule(rule="balanced"), DecisionRule(rule="logits")]
    shares: dict[str, Mapping[str, float]] = {}
    for rule in [*rules, *([chosen] if chosen.costs else [])]:
        weigh = partial(rule.class_weights, tuning.classes)
        predicted = cross_fitted(tuning_set(tuning), weigh).predicted
        rows = [tuning.labels == label for label in range(len(tuning.classes))]
        shares[rule.rule] = {
            name: float((predicted[of_class] == label).mean())
            for label, (name, of_class) in enumerate(zip(tuning.classes, rows, strict=True))
            if of_class.any()
        }
    return shares


def most_missed(decisions: Decisions, calibration: Predictions) -> tuple[str, int, int] | None:
    """The class of which most images are accepted as another one, with their number and of all."""
    labels, classes = calibration.labels, calibration.classes
    missed = labels[(decisions.decisions == "accept") & (decisions.predicted != labels)]
    cases, misses = (np.bincount(rows, minlength=len(classes)) for rows in (labels, missed))
    worst = int((misses / np.maximum(cases, 1)).argmax())
    return (classes[worst], int(misses[worst]), int(cases[worst])) if misses[worst] else None
