"""A policy: from the outputs of its model to decisions.

It is what `Deferral` fits. Deciding reads no file and no clock, and imports nothing that fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from misgiving.arrays import Units, Values
from misgiving.calibration.apply import Calibrator, error_probabilities
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decisions import NUMBERS, Decisions, ScoredImages
from misgiving.deferral.reasons import Reasons
from misgiving.deferral.rules import DecisionRule
from misgiving.errors import DataError, Parameter
from misgiving.files import sha256_of
from misgiving.scores.detectors import FittedDetectors, scores_of_outputs
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.outputs import Outputs

BLOCK = 2**20  # class scores that are computed at once, which bounds the memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """Accepts, defers or calls out-of-distribution, with a guarantee.

    Attributes:
        certificate: Thresholds, what they certify, and what was observed on the calibration set.
        calibration: From scores to class probabilities and error probabilities.
        detectors: Fitted scores of features, and class probes.
        rule: Predicts the class.
        ood_detector: Name of the OOD score.
        model: Fingerprint or name of the model that it is for.
        unit: The unit of the guarantee: a patient, a lesion, an image, or another group.
        kind: Of the outputs: `logits` or `probabilities`.
        seed: Of the draw of one image from each group of a batch.
    """

    certificate: Certificate
    calibration: Calibrator
    detectors: FittedDetectors
    rule: DecisionRule
    ood_detector: str
    model: str
    unit: str
    kind: str
    seed: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.certificate.classes

    @property
    def compares_with_training(self) -> bool:
        """True if the OOD score compares an image with those of the training."""
        return self.ood_detector in FEATURE_SCORES

    @property
    def used_detectors(self) -> FittedDetectors:
        """The detectors that decisions depend on; the others are not computed."""
        names = [name for name in self.detectors.names if name == self.ood_detector]
        return self.detectors.only(names, probes=self.calibration.needs_evidence)

    @property
    def needs_predicted_losses(self) -> bool:
        """True if decisions or expected losses depend on them."""
        return self.calibration.loss is not None or self.ood_detector == "predicted_loss"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the thresholds, what they are compared with, and how classes are predicted."""
        parts = (self.model, self.certificate, self.calibration, self.rule, self.ood_detector)
        return sha256_of(repr(parts).encode())

    def decide(
        self, outputs: Outputs, units: Units | None = None, *, threshold: float | None = None
    ) -> Decisions:
        """Decide for each image, whose outputs `check_outputs` has checked.

        Args:
            outputs: Of the model; an image with any output that is not finite can only be deferred.
            units: Number of the group of each image; None: each is its own.
            threshold: As in `decide_scored`.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        return self.decide_scored(self.score(outputs), units, threshold=threshold)

    def decide_scored(
        self, scored: ScoredImages, units: Units | None = None, *, threshold: float | None = None
    ) -> Decisions:
        """Decide for images that `score` has scored.

        Args:
            scored: The images.
            units: Number of the group of each image; None: each is its own.
            threshold: That of the batch that these images belong to; None: they are the batch.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        acceptable, ood_scores = scored.acceptable, scored.ood_score
        if threshold is None:
            threshold = self.threshold(scored.acceptance_score, ood_scores, acceptable, units)
        lowest = np.float64(threshold)  # not rounded to float32
        reached = np.isfinite(scored.acceptance_score) & (scored.acceptance_score >= lowest)
        accepted = reached & acceptable & self.certificate.above(ood_scores)
        limit = self.certificate.ood_threshold
        ood = np.zeros(len(scored), dtype=bool) if limit is None else ood_scores < limit
        return Decisions(
            **scored.arrays,
            classes=self.classes,
            decisions=np.select([ood, accepted], ["ood", "accept"], "defer"),
            threshold=threshold,
            reasons=Reasons(
                certificate=self.certificate,
                rule=self.rule,
                threshold=threshold,
                accepts_by_probability=self.calibration.accepts_by_probability,
                compares_with_training=self.compares_with_training,
            ),
        )

    def threshold(
        self,
        scores: Values,
        ood_scores: Values,
        acceptable: Bool[np.ndarray, " n"],
        units: Units | None = None,
    ) -> float:
        """The lowest accepted score of a whole batch, the same for any order of its images.

        One image of each group decides; without the numbers of groups, each is its own. The arrays
        are those of `ScoredImages`.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        self.check_batch(len(scores))
        columns = scores, ood_scores, acceptable
        has_groups = units is not None and len(np.unique(units)) < len(units)
        if units is None or not has_groups or self.certificate.selection is None:
            return self.certificate.batch_threshold(*columns)
        listed = zip(*(values.tolist() for values in columns), strict=True)
        digests = [sha256_of(repr((self.seed, *each)).encode()) for each in listed]
        order = np.argsort(digests)  # at random, but the same for any order of the images
        rows = order[np.unique(units[order], return_index=True)[1]]
        return self.certificate.batch_threshold(*(values[rows] for values in columns))

    def score(self, outputs: Outputs) -> ScoredImages:
        """Predict the class of each image, and score it.

        Numbers and probabilities are NaN where outputs are not finite, or lack them. An image of
        which a second opinion alone is not finite lacks only probabilities and what depends on
        them.
        """
        detectors, count = self.used_detectors, len(outputs)
        numbers = {name: np.full(count, np.nan) for name in NUMBERS if name != "probability"}
        if outputs.predicted_losses is not None:
            numbers["predicted_loss"] = outputs.predicted_losses.astype(np.float64)
        predicted = outputs.logits.argmax(axis=1)
        probabilities = np.full(outputs.logits.shape, np.nan)
        finite = np.flatnonzero(outputs.finite)
        for rows in np.array_split(finite, 1 + outputs.logits[finite].size // BLOCK):
            block = outputs.select(rows)
            scores = scores_of_outputs(block, detectors)
            probabilities[rows], predicted[rows], numbers["acceptance_score"][rows] = (
                self.calibration.judge(
                    scores, block.logits, detectors.evidence(block), block.opinions
                )
            )
            if self.calibration.loss is not None and block.predicted_losses is not None:
                numbers["expected_loss"][rows] = self.calibration.loss(scores["predicted_loss"])
            numbers["ood_score"][rows] = scores[self.ood_detector]
        numbers["error_probability"] = error_probabilities(probabilities, predicted)
        numbers["ood_p_value"] = self.certificate.ood_p_values(numbers["ood_score"])
        errors = numbers["error_probability"]
        acceptable = self.rule.mark_acceptable(probabilities, predicted, errors)
        return ScoredImages(
            predicted=predicted, probabilities=probabilities, acceptable=acceptable, **numbers
        )

    def check_batch(self, images: int) -> None:
        """Check that so many images can be decided together.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        if images < self.certificate.min_batch:
            raise DataError(
                *("the average guarantee of ", Parameter("max_error"), " is for batches of at "),
                f"least {self.certificate.min_batch} images, got {images}; give more at once, or ",
                *("calibrate with ", Parameter("max_silent_error")),
                " alone, which holds for each image",
            )

    def check_model(
        self, model: str, classes: tuple[str, ...] | None = None, *, where: Path | None = None
    ) -> None:
        """Check that a model, with these classes where they are given, is the calibrated one.

        Raises:
            DataError: It is another one; the message begins with `where`, if that is given.
        """
        place = f"{where}: " if where else ""
        if classes not in (None, self.classes):
            raise DataError(
                f"{place}the policy is for the classes {', '.join(self.classes)}, and the "
                f"predictions for {', '.join(classes or ())}; they must be the same in this order"
            )
        if model != self.model:
            raise DataError(
                f"{place}the policy was calibrated for the model {self.model[:12]}, not for "
                f"{model[:12]}; run `misgiving calibrate` for this model"
            )

    def check_opinions(self, models: Mapping[str, str]) -> None:
        """Check that second opinions are by the models whose fingerprints the policy knows.

        Raises:
            DataError: One is not.
        """
        pool = self.calibration.opinions
        expected = {} if pool is None else pool.models
        for name in expected.keys() & models.keys():
            if models[name] != expected[name]:
                raise DataError(
                    f"the policy uses the second opinion {name} of the model "
                    f"{expected[name][:12]}, not of {models[name][:12]}; give that one, or run "
                    "`misgiving calibrate` again"
                )

    def check_outputs(self, outputs: Outputs) -> None:
        """Check that outputs are of the policy's kind, and have what it reads.

        Raises:
            DataError: They are of another kind, or lack columns.
        """
        if outputs.kind != self.kind:
            raise DataError(
                f"the predictions are {outputs.kind}, and the policy was fitted on {self.kind}, "
                "with which their scores cannot be compared; give these"
            )
        lacking = self.used_detectors.lacking_columns(
            outputs, predicted_losses=self.needs_predicted_losses
        )
        needed = self.calibration.needs_opinions
        lacking += [f"the second opinion of {x}" for x in needed if x not in outputs.opinions]
        if lacking:
            raise DataError(
                f"the policy needs {' and '.join(lacking)}, which these predictions do not have; "
                "predict again with the run or its bundle"
            )
