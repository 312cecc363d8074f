"""From predictions to decisions: detectors, what scores mean, and the policy, together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from misgiving.calibrators import Estimate
from misgiving.calibrators.fit import fit_estimate
from misgiving.checkpoint import POLICY
from misgiving.decisions.decision import (
    OOD_DETECTOR as OOD_DETECTOR,  # also to be had from here
)
from misgiving.decisions.decision import Verdict as Verdict
from misgiving.decisions.decision import ood_detector_of, verdicts
from misgiving.deferral import (
    DeferralPolicy,
    ScoredCases,
    Targets,
    certify_thresholds,
    one_per_group,
)
from misgiving.errors import DataError, UsageError
from misgiving.files import whole_folder, write_json
from misgiving.manifests import seal, verify
from misgiving.results.predictions import Head, Predictions
from misgiving.scores import FittedDetectors, TrainingOutputs, fit_detectors
from misgiving.scores.confidences import all_confidences

Values = Float[np.ndarray, " n"]

WITHOUT_HEAD = ("mahalanobis", "relative_mahalanobis", "knn", "kl_matching")
ESTIMATE, DETECTORS = "estimate.json", "detectors.safetensors"
CASES = "cases.json"
SEALED = (POLICY, ESTIMATE, DETECTORS, CASES)  # together: the promise is for exactly these scores


def detectors_of(training: Predictions) -> FittedDetectors:
    """Detectors fitted on the predictions for the training part; those that need no head if none.

    Args:
        training: Of the images that the model was trained on, and of no other.
    """
    names = None if training.head is not None else WITHOUT_HEAD
    outputs = TrainingOutputs(
        logits=training.logits,
        features=training.features,
        labels=training.labels,
        head=training.head or _no_head(training),
    )
    return fit_detectors(outputs, names)


def _no_head(training: Predictions) -> Head:
    return Head(
        np.zeros((training.logits.shape[1], training.features.shape[1]), dtype=np.float32),
        np.zeros(training.logits.shape[1], dtype=np.float32),
    )


def estimate_of(tune: Predictions, detectors: FittedDetectors) -> Estimate:
    """What the scores mean, learned on the tune part."""
    return fit_estimate(
        all_confidences(tune, detectors), tune.logits, tune.labels, np.array(tune.groups)
    )


def cases_of(
    predictions: Predictions,
    detectors: FittedDetectors,
    estimate: Estimate,
    *,
    ood_detector: str = OOD_DETECTOR,
) -> ScoredCases:
    """All images as cases of a policy; draw one of each group before anything is certified."""
    found = all_confidences(predictions, detectors)
    return ScoredCases(
        scores=estimate.scores(found, predictions.logits),
        ood_scores=found[_known(ood_detector, found)],
        wrong=predictions.errors,
        labels=predictions.labels,
    )


def _known(ood_detector: str, confidences: Mapping[str, Values]) -> str:
    if ood_detector not in confidences:
        raise UsageError(f"unknown detector {ood_detector!r}; choose from {', '.join(confidences)}")
    return ood_detector


@dataclass(frozen=True, kw_only=True)
class Decider:
    """All that turns predictions of one model into decisions."""

    detectors: FittedDetectors
    estimate: Estimate
    policy: DeferralPolicy

    @cached_property
    def used(self) -> FittedDetectors:
        """The detectors that decisions rest on: the others need not be computed."""
        wanted = {self.ood_detector, *self.estimate.needed}
        return self.detectors.only([name for name in self.detectors.names if name in wanted])

    @property
    def ood_detector(self) -> str:
        """Name of what tells OOD images."""
        return ood_detector_of(self.policy)

    def __call__(self, predictions: Predictions) -> list[Verdict]:
        """Decide image by image; one whose outputs are not finite is deferred.

        Raises:
            DataError: The predictions are another model's.
        """
        self.policy.refuse_other_model(predictions.model)
        if predictions.classes != self.policy.classes:
            raise DataError(
                f"the policy is for the classes {', '.join(self.policy.classes)} in this order, "
                f"not for {', '.join(predictions.classes)}; run `misgiving calibrate` again"
            )
        return verdicts(
            predictions.logits,
            predictions.features,
            lambda rows: all_confidences(predictions.select(rows), self.used),
            policy=self.policy,
            estimate=self.estimate,
        )

    def save(self, folder: Path, cases: Mapping[str, Any]) -> None:
        """Write a policy folder whole or not at all, with an account of its `cases`."""
        with whole_folder(folder) as partial:
            self.policy.save(partial / POLICY)
            write_json(partial / ESTIMATE, self.estimate.to_dict())
            self.detectors.save(partial / DETECTORS)
            write_json(partial / CASES, dict(cases))
            seal(partial, SEALED)

    @classmethod
    def load(cls, folder: Path) -> "Decider":
        """Read a policy folder.

        Raises:
            DataError: There is none, or a file of it is missing, damaged or was edited.
        """
        if not (folder / POLICY).is_file():
            raise DataError(f"{folder}: holds no policy; run `misgiving calibrate` first")
        policy = DeferralPolicy.load(folder / POLICY)
        verify(folder, SEALED, remedy="run `misgiving calibrate` again")
        return cls(
            policy=policy,
            estimate=_read_estimate(folder / ESTIMATE),
            detectors=FittedDetectors.load(folder / DETECTORS),
        )


def _read_estimate(path: Path) -> Estimate:
    try:
        return Estimate.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: missing or damaged ({error}); run `misgiving calibrate` again"
        ) from error


def calibrated(
    tune: Predictions,
    calibration: Predictions,
    detectors: FittedDetectors,
    estimate: Estimate,
    targets: Sequence[Targets],
    *,
    seed: int,
    calibration_fingerprint: str,
    ood_detector: str = OOD_DETECTOR,
) -> list[Decider]:
    """Set a policy on the calibration part for each of these targets.

    Args:
        tune: For all that is chosen, the candidate thresholds among it.
        calibration: For thresholds alone; one image of each group is drawn.
        detectors: Fitted on the training part.
        estimate: Learned on the tune part.
        targets: What the accepted answers must keep, by policy.
        seed: Of that draw.
        calibration_fingerprint: Says which images the calibration part consists of.
        ood_detector: Tells OOD images.
    """
    _refuse_two_models(tune, calibration)
    _refuse_shared_groups(tune.groups, calibration.groups)
    tuned, certified = (
        cases_of(part, detectors, estimate, ood_detector=ood_detector)[
            one_per_group(part.groups, seed=seed)
        ]
        for part in (tune, calibration)
    )
    found = [
        certify_thresholds(tuned, certified, promise, classes=calibration.classes)
        for promise in targets
    ]
    return [
        Decider(
            detectors=detectors,
            estimate=estimate,
            policy=DeferralPolicy(
                certificate=one,
                score=estimate.score,
                ood_detector=ood_detector,
                model_fingerprint=calibration.model,
                calibration_fingerprint=calibration_fingerprint,
                seed=seed,
                error_limit=_error_limit(estimate, one.accept_threshold),
            ),
        )
        for one in found
    ]


def _error_limit(estimate: Estimate, threshold: float | None) -> float | None:
    """The accept threshold as a probability of error."""
    return None if threshold is None else float(estimate.error(np.array([threshold]))[0])


def _refuse_two_models(tune: Predictions, calibration: Predictions) -> None:
    if not calibration.model:
        raise DataError("it is not known which model made these predictions; predict again")
    if (tune.model, tune.classes) != (calibration.model, calibration.classes):
        raise DataError(
            "the tune and the calibration part were predicted by two models; predict both again"
        )


def _refuse_shared_groups(tune: Sequence[str], calibration: Sequence[str]) -> None:
    if shared := sorted(set(tune) & set(calibration)):
        raise DataError(
            f"group {shared[0]!r} is in the tune and in the calibration part ({len(shared)} are); "
            "give lesions that nothing was chosen on"
        )
