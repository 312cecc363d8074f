"""Decisions from the outputs of any model; a run, a bundle and the service share this code."""

import math
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import softmax

from misgiving.calibration.apply import Calibrator, Classes
from misgiving.decisions.decision import NO_POLICY, Decision, Outcome, reason_for
from misgiving.decisions.rules import DecisionRule
from misgiving.deferral.policy import DeferralPolicy
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.files import read_json, whole_folder, write_json
from misgiving.manifests import seal, verify
from misgiving.predictions.record import Predictions
from misgiving.results.formats import write_document
from misgiving.scores.detectors import FittedDetectors, finite_rows, scores_of_outputs

Logits = Float[np.ndarray, "n classes"]
Features = Float[np.ndarray, "n width"]
Taps = Float[np.ndarray, "n channels"]
Values = Float[np.ndarray, " n"]

POLICY, CALIBRATOR, DETECTORS = "policy.json", "calibrator.json", "detectors.safetensors"
CASES = "cases.json"
POLICY_FOLDER = "policy"  # in a run
SEALED = (POLICY, CALIBRATOR, DETECTORS, CASES)  # the guarantee is for exactly these scores
AGAIN = "run `misgiving calibrate` again"
NUMBERS = (
    "acceptance_score",
    "error_probability",
    "expected_loss",
    "predicted_loss",
    "ood_score",
    "ood_p_value",
)


class DecidedArrays(NamedTuple):
    """Decisions for a set of images.

    Attributes:
        outcomes: "accept", "defer" or "ood".
        named: Position of the named class.
        scaled: Position of the class with the largest calibrated probability.
        probabilities: Of the classes; NaN where they are not available.
        numbers: The numbers of a `Decision` by field; NaN where one is not available.
    """

    outcomes: Shaped[np.ndarray, " n"]
    named: Classes
    scaled: Classes
    probabilities: Logits
    numbers: dict[str, Values]


@dataclass(frozen=True, eq=False, kw_only=True)
class DecisionEngine:
    """Everything that turns the outputs of one model into decisions.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        policy: Accepts, defers or calls OOD; None: every image is deferred.
        calibrator: Fitted maps from scores to probabilities; None without a policy.
        detectors: Fitted scores of features; None without a policy.
    """

    classes: tuple[str, ...]
    policy: DeferralPolicy | None = None
    calibrator: Calibrator | None = None
    detectors: FittedDetectors | None = None

    def __post_init__(self) -> None:
        missing = {part is None for part in (self.policy, self.calibrator, self.detectors)}
        if len(missing) > 1:
            raise UsageError("give policy, calibrator and detectors, or none of them")
        if self.policy is not None:
            self.refuse_other_classes(self.policy.classes)

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the scores that decisions depend on; none without a policy."""
        if self.policy is None or self.calibrator is None:
            return frozenset()
        return frozenset(filter(None, (self.policy.ood_detector, *self.calibrator.needed)))

    @cached_property
    def used(self) -> FittedDetectors | None:
        """The detectors that decisions depend on; the others are not computed."""
        if self.calibrator is None or self.detectors is None:
            return None
        return self.detectors.only(
            [name for name in self.detectors.names if name in self.needed],
            probes=self.calibrator.needs_evidence,
        )

    @cached_property
    def rule(self) -> DecisionRule | None:
        """The rule by which the policy names classes."""
        if self.policy is None:
            return None
        names = (field.name for field in fields(DecisionRule))
        return DecisionRule(**{name: getattr(self.policy, name) for name in names})

    def decide_predictions(self, predictions: Predictions) -> list[Decision]:
        """Decide for a set of images, refused unless the policy is that of their model.

        Raises:
            DataError: The predictions are another model's.
        """
        self.refuse_other_predictions(predictions)
        return self.decide(
            predictions.logits,
            predictions.features,
            predictions.predicted_losses,
            predictions.taps,
        )

    def decide(
        self,
        logits: Logits,
        features: Features | None,
        predicted_losses: Values | None = None,
        taps: Taps | None = None,
    ) -> list[Decision]:
        """Decide image by image; one whose outputs are not finite is deferred.

        Args:
            logits: Class scores before the softmax.
            features: Input of the last linear layer.
            predicted_losses: Outputs of a trained loss estimator.
            taps: Averages of the activations that the estimator reads.
        """
        decided = self.decide_arrays(logits, features, predicted_losses, taps)
        numbers = zip(*(values.tolist() for values in decided.numbers.values()), strict=True)
        rows = zip(
            decided.outcomes.tolist(),
            decided.named.tolist(),
            decided.scaled.tolist(),
            decided.probabilities.tolist(),
            (dict(zip(decided.numbers, row, strict=True)) for row in numbers),
            strict=True,
        )
        return [self._decision(*row) for row in rows]

    def decide_arrays(
        self,
        logits: Logits,
        features: Features | None,
        predicted_losses: Values | None = None,
        taps: Taps | None = None,
    ) -> DecidedArrays:
        """Decide as `decide` does, without a record of each image, of which there may be many."""
        numbers = self._measure(logits, features, predicted_losses, taps)
        named, scaled, probabilities = self._name_classes(logits, numbers["error_probability"])
        outcomes = np.full(len(logits), "defer")
        if self.policy is not None and self.rule is not None:
            decided = self.policy.decide(
                numbers["acceptance_score"],
                numbers["ood_score"],
                acceptable=self.rule.acceptable(numbers["error_probability"], probabilities, named),
            )
            outcomes, numbers["ood_p_value"] = decided.decisions, decided.p_values
        return DecidedArrays(outcomes, named, scaled, probabilities, numbers)

    def _decision(
        self,
        outcome: Outcome,
        named: int,
        scaled: int,
        probabilities: list[float],
        numbers: dict[str, float],
    ) -> Decision:
        by_class = dict(zip(self.classes, probabilities, strict=True))
        name, most = self.classes[named], self.classes[scaled]
        return Decision(
            decision=outcome,
            predicted_class=name,
            probabilities=by_class,
            reason=NO_POLICY
            if self.policy is None
            else reason_for(self.policy, outcome, numbers, name, by_class, scaled=most),
            **{name: x if math.isfinite(x) else None for name, x in numbers.items()},
        )

    def _measure(
        self,
        logits: Logits,
        features: Features | None,
        predicted_losses: Values | None,
        taps: Taps | None,
    ) -> dict[str, Values]:
        """Numbers by the field of a decision; NaN where there is none or outputs are not finite."""
        columns = {name: np.full(len(logits), np.nan) for name in NUMBERS}
        if predicted_losses is not None:
            columns["predicted_loss"] = predicted_losses
        if self.policy is None or self.calibrator is None:
            return columns
        finite = finite_rows(logits, features, taps)
        losses = None if predicted_losses is None else predicted_losses[finite]
        known = None if features is None else features[finite]
        averages = None if taps is None else taps[finite]
        scores = scores_of_outputs(logits[finite], known, losses, averages, self.used)
        evidence = None if self.used is None else self.used.evidence(known, averages)
        acceptance = self.calibrator.acceptance_scores(scores, logits[finite], evidence)
        columns["acceptance_score"][finite] = acceptance
        columns["error_probability"][finite] = self.calibrator.error(acceptance)
        if self.calibrator.loss is not None:
            columns["expected_loss"][finite] = self.calibrator.loss(scores["predicted_loss"])
        if self.policy.ood_detector is not None:
            columns["ood_score"][finite] = scores[self.policy.ood_detector]
        return columns

    def _name_classes(self, logits: Logits, errors: Values) -> tuple[Classes, Classes, Logits]:
        """The named class of each image, the most probable one after scaling, and probabilities.

        These agree with the error; where it is not available, they are the scaled ones, or NaN.
        """
        named, probabilities = logits.argmax(axis=1), np.full(logits.shape, np.nan)
        scaled = named.copy()
        finite = np.isfinite(logits).all(axis=1)
        known = logits[finite].astype(np.float64)
        if self.calibrator is None:
            probabilities[finite] = softmax(known, axis=1)
            return named, scaled, probabilities
        named[finite] = self.calibrator.named(known)
        scaled[finite] = self.calibrator.scaling.logarithms(known).argmax(axis=1)
        probabilities[finite] = self.calibrator.scaling(known)
        judged = finite & np.isfinite(errors)
        probabilities[judged] = self.calibrator.probabilities(
            logits[judged].astype(np.float64), named[judged], errors[judged]
        )
        return named, scaled, probabilities

    def refuse_other_predictions(self, predictions: Predictions) -> None:
        """Refuse predictions of another model, or without columns that the policy reads."""
        if self.policy is not None:
            self.policy.refuse_other_model(predictions.model)
        self.refuse_other_classes(predictions.classes)
        if self.used is None or self.policy is None or self.calibrator is None:
            return
        width = self.used.directions.shape[1]
        given = 0 if predictions.features is None else predictions.features.shape[1]
        probes = self.used.probes
        reads_features = bool(self.used.names) or (probes is not None and not probes.reads_taps)
        if probes is not None and probes.reads_taps and predictions.taps is None:
            raise DataError(
                f"the acceptance score {self.calibrator.score} reads the taps of the model, which "
                "predictions in a file do not have; predict the images with the run or its bundle"
            )
        if reads_features and given != width:
            raise DataError(
                f"the policy needs the columns feature_0 to feature_{width - 1}, and there "
                f"are {given or 'none'}; predict again with all of them"
            )
        if "predicted_loss" in self.needed and predictions.predicted_losses is None:
            raise DataError("the policy needs the column predicted_loss; predict again with it")

    def refuse_other_classes(self, classes: tuple[str, ...]) -> None:
        if classes != self.classes:
            raise DataError(
                f"the policy is for the classes {', '.join(self.classes)}, and the predictions are "
                f"for {', '.join(classes)}; they must be the same in the same order; {AGAIN}"
            )

    def save(self, folder: Path) -> None:
        """Write policy, calibrator and detectors, if any, into a folder that exists."""
        if self.policy is not None and self.calibrator is not None and self.detectors is not None:
            self.policy.save(folder / POLICY)
            write_json(folder / CALIBRATOR, self.calibrator.to_dict())
            self.detectors.save(folder / DETECTORS)

    @classmethod
    def load(cls, folder: Path) -> "DecisionEngine":
        """Read the policy, calibrator and detectors that `save` wrote.

        Raises:
            DataError: A file is missing or damaged, or of another format.
        """
        policy, path = DeferralPolicy.load(folder / POLICY), folder / CALIBRATOR
        content = read_json(path, remedy=AGAIN)
        with explain_damage(path, remedy=AGAIN):
            calibrator = Calibrator.from_dict(content)
        detectors = FittedDetectors.load(folder / DETECTORS)
        return cls(
            classes=policy.classes, policy=policy, calibrator=calibrator, detectors=detectors
        )


def save_policy(folder: Path, engine: DecisionEngine, cases: object) -> None:
    """Write a policy folder, whole or not at all, with a record of its calibration `cases`."""
    with whole_folder(folder) as partial_folder:
        engine.save(partial_folder)
        write_document(partial_folder / CASES, cases, compact=True)
        seal(partial_folder, SEALED)


def load_policy(folder: Path) -> DecisionEngine:
    """Read a policy folder.

    Raises:
        DataError: There is none, it has an old format, or a file is missing, damaged or was edited.
    """
    if not (folder / POLICY).is_file():
        raise DataError(f"{folder}: contains no policy; run `misgiving calibrate` first")
    DeferralPolicy.load(folder / POLICY)  # an old format is refused before its other files are read
    verify(folder, SEALED, remedy=AGAIN)
    return DecisionEngine.load(folder)


def load_engine(folder: Path, classes: tuple[str, ...], *, model: str) -> DecisionEngine:
    """Read the policy folder of a run; without one, the engine defers every image.

    Args:
        folder: The policy folder, which need not exist.
        classes: Names of the model's classes.
        model: Fingerprint of the model, which the policy must be for.

    Raises:
        DataError: The policy is damaged, was edited, or belongs to another model.
    """
    if not folder.exists():
        return DecisionEngine(classes=classes)
    engine = load_policy(folder)
    if engine.policy is not None:
        engine.policy.refuse_other_model(model)
    return engine
