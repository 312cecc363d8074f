"""Fit calibrators and policies on predictions, and say in sentences what was found."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from misgiving.calibration.apply import Calibrator
from misgiving.calibration.fit import Fitted, TuningSet, cross_fitted, fit_calibrator
from misgiving.decisions.engine import DecisionEngine
from misgiving.decisions.rules import DecisionRule
from misgiving.deferral.policy import DeferralPolicy, RepeatedCases
from misgiving.deferral.scored_cases import ScoredCases, one_per_group
from misgiving.deferral.targets import Targets
from misgiving.deferral.thresholds import certify_thresholds
from misgiving.errors import DataError, UsageError
from misgiving.metrics.classification import sensitivities
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import OOD_DETECTOR, FittedDetectors, all_scores, evidence_of
from misgiving.scores.features import FEATURE_SCORES

MOST_PROBABLE_RULE, LOGITS_RULE = DecisionRule(), DecisionRule(rule="logits")
PREDICTED_LOSS = "predicted_loss"


def calibrator_of(
    tune: Predictions, detectors: FittedDetectors, rule: DecisionRule = MOST_PROBABLE_RULE
) -> Fitted:
    """Fit a calibrator on the tuning set, for the classes that a rule names."""
    tuning = TuningSet(
        all_scores(tune, detectors),
        tune.logits,
        tune.labels,
        tune.units,
        evidence_of(tune, detectors),
    )
    return fit_calibrator(tuning, partial(rule.class_weights, tune.classes))


def cases_of(
    predictions: Predictions,
    detectors: FittedDetectors,
    calibrator: Calibrator,
    rule: DecisionRule,
    *,
    ood_detector: str = OOD_DETECTOR,
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
        named = calibrator.named(predictions.logits)
        evidence = evidence_of(predictions, detectors)
        acceptance = calibrator.acceptance_scores(scores, predictions.logits, evidence)
    else:
        named, acceptance = of_tuning.named, of_tuning.scores
    errors = calibrator.error(acceptance)
    probabilities = calibrator.probabilities(predictions.logits, named, errors)
    return ScoredCases(
        scores=acceptance,
        ood_scores=scores[ood_detector],
        wrong=named != predictions.labels,
        labels=predictions.labels,
        acceptable=rule.acceptable(errors, probabilities, named),
    )


def _missing(ood_detector: str) -> str:
    """A clause on the columns that a score needs and the predictions lack."""
    known = FEATURE_SCORES.get(ood_detector)
    if ood_detector == PREDICTED_LOSS:
        needs = f"the column {PREDICTED_LOSS}"
    elif known is None:
        return f"unknown detector {ood_detector!r}"
    elif known.reads_taps:
        needs = "a run: predictions in a file have no tap averages"
    elif known.needs_head:
        needs = "a run: predictions in a file have no last layer"
    else:
        needs = "features of training images: columns feature_0, ..., and rows of the set train"
    return f"`ood_detector` {ood_detector!r} needs {needs}"


def fit_policies(
    tune: Predictions,
    calibration: Predictions,
    detectors: FittedDetectors,
    fitted: Fitted,
    targets: Sequence[Targets],
    *,
    rule: DecisionRule = MOST_PROBABLE_RULE,
    seed: int,
    calibration_fingerprint: str,
    ood_detector: str = OOD_DETECTOR,
) -> list[DeferralPolicy]:
    """Set the thresholds of a policy for each of these targets.

    Args:
        tune: For everything that is chosen, candidate thresholds included.
        calibration: For thresholds alone; one image of each group is drawn.
        detectors: Fitted on the training set.
        fitted: A calibrator, fitted on the tuning set for the classes that the rule names.
        targets: Target error rates, one for each policy.
        rule: Names the classes.
        seed: Seed of that draw.
        calibration_fingerprint: Identifies the images of the calibration set.
        ood_detector: Name of the OOD score.

    Raises:
        DataError: The model is not known, the sets are of two models or share a group, a group has
            no name, or `cases_of` or `certify_thresholds` refuses them.
        UsageError: As for `cases_of` and `certify_thresholds`.
    """
    _refuse_two_models(tune, calibration)
    _refuse_shared_groups(tune.groups, calibration.groups)
    calibrator = fitted.calibrator
    tuning_cases, calibration_cases = (
        cases_of(
            predictions,
            detectors,
            calibrator,
            rule,
            ood_detector=ood_detector,
            of_tuning=of_tuning,
        )[one_per_group(predictions.units, seed=seed)]
        for predictions, of_tuning in ((tune, fitted), (calibration, None))
    )
    policies = []
    for target in targets:
        found = certify_thresholds(
            tuning_cases, calibration_cases, target, classes=calibration.classes
        )
        threshold = found.accept_threshold
        policies.append(
            DeferralPolicy(
                certificate=found,
                score=calibrator.score,
                ood_detector=ood_detector,
                model_fingerprint=calibration.model,
                calibration_fingerprint=calibration_fingerprint,
                seed=seed,
                rule=rule.rule,
                costs=rule.costs,
                max_error_probability=rule.max_error_probability,
                error_limit=None
                if threshold is None
                else float(calibrator.error(np.array([threshold]))[0]),
            )
        )
    return policies


def _refuse_two_models(tune: Predictions, calibration: Predictions) -> None:
    if not calibration.model:
        raise DataError("it is not known which model made these predictions; predict again")
    if (tune.model, tune.classes) != (calibration.model, calibration.classes):
        raise DataError(
            "the predictions for the tuning set and the calibration set are of two models; "
            "predict both again"
        )


def _refuse_shared_groups(tune: Sequence[str], calibration: Sequence[str]) -> None:
    if shared := sorted((set(tune) & set(calibration)) - {""}):
        others = f", as are {len(shared) - 1} others" if len(shared) > 1 else ""
        raise DataError(
            f"group {shared[0]!r} is in both the tuning set and the calibration set{others}; "
            "calibrate on groups that nothing was chosen on"
        )


class FittedEngine(NamedTuple):
    """An engine, its policy, and sentences on how they were fitted."""

    engine: DecisionEngine
    policy: DeferralPolicy
    notes: list[str]


def fit_engine(
    tune: Predictions,
    calibration: Predictions,
    detectors: FittedDetectors,
    targets: Targets,
    *,
    rule: DecisionRule = MOST_PROBABLE_RULE,
    seed: int,
    calibration_fingerprint: str,
    unit: str,
    ood_detector: str = OOD_DETECTOR,
    repeated: RepeatedCases | None = None,
) -> FittedEngine:
    """Fit the calibrator and the policy, each on its own set.

    Args:
        tune: For everything that is chosen.
        calibration: For thresholds alone.
        detectors: Fitted on the training set.
        targets: Target error rates.
        rule: Names the classes.
        seed: Of the draw of one image from each group.
        calibration_fingerprint: Identifies the images of the calibration set.
        unit: The unit of the guarantee.
        ood_detector: Name of the OOD score.
        repeated: Cases that earlier calibrations had used; None: there are none.

    Raises:
        DataError: As for `fit_calibrator` and `fit_policies`.
        UsageError: As for `fit_policies`; or the rule has costs of an unknown class.
    """
    fitted = calibrator_of(tune, detectors, rule)
    (policy,) = fit_policies(
        tune,
        calibration,
        detectors,
        fitted,
        [targets],
        rule=rule,
        seed=seed,
        calibration_fingerprint=calibration_fingerprint,
        ood_detector=ood_detector,
    )
    policy, calibrator = replace(policy, unit=unit, repeated=repeated), fitted.calibrator
    engine = DecisionEngine(
        classes=policy.classes, policy=policy, calibrator=calibrator, detectors=detectors
    )
    tried = ", ".join(f"{name} {value:.4f}" for name, value in calibrator.tried.items())
    why = (
        "whose log-loss on images that it was not fitted on is lower than that of calibrated"
        if calibrator.needs_evidence
        else "with the lowest AURC of those without class probes"
    )
    notes = [
        "sensitivities on the tuning set, by the rule that names the class:",
        *sensitivity_sentences(tune, rule),
        f"the acceptance score is {calibrator.score}, {why}; AURC on the tuning set: {tried}",
    ]
    if not targets.class_max_miss:
        notes += unbounded_misses(engine, calibration)
    return FittedEngine(engine, policy, notes)


def sensitivity_sentences(tune: Predictions, chosen: DecisionRule) -> list[str]:
    """The sensitivity for each class by rule; that of costs only where these are given."""
    rules = [DecisionRule(), DecisionRule(rule="balanced"), DecisionRule(rule="logits")]
    sentences = []
    for rule in [*rules, *([chosen] if chosen.costs else [])]:
        weigh = partial(rule.class_weights, tune.classes)
        tuning = TuningSet({}, tune.logits, tune.labels, tune.units)
        named = cross_fitted(tuning, weigh).named
        found = sensitivities(tune.labels, named, num_classes=len(tune.classes))
        shares = (
            f"{name}: {100 * share:.0f} %"
            for name, share in zip(tune.classes, found, strict=True)
            if not np.isnan(share)
        )
        sentences.append(f"  {rule.rule}: {', '.join(shares)}")
    return sentences


def unbounded_misses(engine: DecisionEngine, calibration: Predictions) -> list[str]:
    """A warning about the class that is most often accepted as another one."""
    decided = engine.decide_arrays(
        calibration.logits, calibration.features, calibration.predicted_losses, calibration.taps
    )
    labels, count = calibration.labels, len(calibration.classes)
    missed = labels[(decided.outcomes == "accept") & (decided.named != labels)]
    cases, misses = np.bincount(labels, minlength=count), np.bincount(missed, minlength=count)
    worst = int((misses / np.maximum(cases, 1)).argmax())
    if not misses[worst]:
        return []
    return [
        f"Warning: no class has a target. {misses[worst]} of {cases[worst]} calibration images of "
        f"{calibration.classes[worst]} are accepted as another class; bound this by "
        "`class_max_miss`."
    ]
