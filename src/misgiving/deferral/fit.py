"""Choose the images that a policy is fitted on, and score them as its cases."""

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from misgiving.calibration.fit import Fitted, TuningSet, cross_fitted, fit_calibrator
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.settings import DecisionRule
from misgiving.deferral.thresholds import ScoredCases
from misgiving.errors import DataError, UsageError
from misgiving.groups import QUARTERS, partition_groups
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, all_scores, evidence_of

MOST_TUNED = 20_000  # groups to tune on; more would be slow, and bring nothing
MOST_PROBABLE = DecisionRule()
OWN_SETS = ("tune", "calibrate")
FREE = ("", "validation")
NOT_USED = ("train", "test", "excluded")


def fitting_sets(
    tuning: Any, calibration: Any, training: Any, *, classes: Any, seed: int
) -> tuple[Predictions, Predictions, FittedDetectors, dict[str, Any]]:
    """Choose the sets to tune on and to certify with as `Deferral.fit` says, and fit the detectors.

    Also gives facts on the choice, by the field of `Cases`.

    Raises:
        DataError: They cannot support a policy.
    """
    facts: dict[str, Any] = {"training_images": 0}
    if calibration is None:
        data = Predictions.of(tuning, classes=classes)
        tuning, calibration, parts = drawn_sets(data, seed=seed)
        training = data.in_set("train") if training is None else training
        counts = Counter(data.sets or ())
        left_out = {name: counts[name] for name in NOT_USED if name in counts}
        facts |= {"drawn_parts": parts, "left_out": left_out}
    else:
        tuning = Predictions.of(tuning, classes=classes, name="tuning")
        calibration = Predictions.of(calibration, classes=classes, name="calibration")
        check_copies(tuning, calibration)
    if training is not None:
        training = Predictions.of(training, classes=classes, name="training")
        facts["training_images"] = 0 if training.features is None else len(training)
    check_sets(tuning, calibration, training)
    return tuning, calibration, fit_detectors(training), facts


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


def check_sets(tuning: Predictions, calibration: Predictions, training: Predictions | None) -> None:
    """Check that the sets are labelled, of one model, and that the first two share no images.

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
    if training is not None and len(training) and training.classes != tuning.classes:
        raise DataError(
            f"the training set has the classes {', '.join(training.classes)}, and the tuning set "
            f"{', '.join(tuning.classes)}; give the same in the same order"
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


def fit_detectors(training: Predictions | None) -> FittedDetectors:
    """Fit detectors on the training images; there are none without features.

    Raises:
        DataError: An image has no label.
    """
    if training is None or not len(training) or training.features is None:
        return FittedDetectors.none()
    training.check_labelled()
    return FittedDetectors.fit(training)


def fit_calibration(
    tuning: Predictions, detectors: FittedDetectors, rule: DecisionRule = MOST_PROBABLE
) -> Fitted:
    """Fit the calibration on the tuning set, for the classes that a rule names."""
    return fit_calibrator(
        TuningSet(
            all_scores(tuning, detectors),
            tuning.logits,
            tuning.labels,
            tuning.units,
            evidence_of(tuning, detectors),
        ),
        partial(rule.class_weights, tuning.classes),
    )


def scored_cases(
    predictions: Predictions,
    detectors: FittedDetectors,
    fitted: Fitted,
    rule: DecisionRule,
    *,
    ood_detector: str,
    of_tuning: bool = False,
) -> ScoredCases:
    """All images as cases of a policy; draw one of each group before anything is certified.

    Args:
        predictions: Of the images.
        detectors: Fitted on the training set.
        fitted: The calibration, for the classes that the rule names.
        rule: Names the classes.
        ood_detector: Name of the OOD score.
        of_tuning: True for the images of the tuning set, whose classes and scores are cross-fitted.

    Raises:
        DataError: Outputs or scores are not finite.
        UsageError: There is no such OOD score, or the detectors read other features or taps.
    """
    scores, calibrator = all_scores(predictions, detectors), fitted.calibrator
    if ood_detector not in scores:
        raise UsageError(
            f"`ood_detector` {ood_detector!r} is unknown, or needs what the predictions do not "
            "have: features or taps of images in the set train, the last layer, or predicted_loss; "
            f"choose from {', '.join(scores)}"
        )
    predicted, acceptance = fitted.predicted, fitted.scores
    if not of_tuning:
        predicted = calibrator.predict(predictions.logits)
        evidence = evidence_of(predictions, detectors)
        acceptance = calibrator.acceptance_scores(scores, predictions.logits, evidence)
    errors = calibrator.error(acceptance)
    probabilities = calibrator.probabilities(predictions.logits, predicted, errors)
    return ScoredCases(
        scores=acceptance,
        ood_scores=scores[ood_detector],
        wrong=predicted != predictions.labels,
        labels=predictions.labels,
        acceptable=rule.acceptable(errors, probabilities, predicted),
    )


def sensitivities_by_rule(
    tuning: Predictions, chosen: DecisionRule
) -> Mapping[str, Mapping[str, float]]:
    """The sensitivity for each class that occurs, by rule; that of costs only where given."""
    rules = [DecisionRule(), DecisionRule(rule="balanced"), DecisionRule(rule="logits")]
    without_scores = TuningSet({}, tuning.logits, tuning.labels, tuning.units)
    shares: dict[str, Mapping[str, float]] = {}
    for rule in [*rules, *([chosen] if chosen.costs else [])]:
        weigh = partial(rule.class_weights, tuning.classes)
        predicted, _ = cross_fitted(without_scores, weigh)
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
