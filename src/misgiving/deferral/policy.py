"""A policy: from the outputs of its model to decisions.

It is what `Deferral` fits. Deciding reads no file and no clock, and imports nothing that fits.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from misgiving.arrays import Classes, Logits, Units, Values
from misgiving.calibration.apply import Calibrator, error_probabilities
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decisions import Decisions, ScoredImages, unscored
from misgiving.deferral.targets import DecisionRule
from misgiving.errors import DataError, Parameter
from misgiving.files import sha256_of
from misgiving.scores.detectors import FittedDetectors, scores_of_outputs
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.outputs import CONFIDENCE, Outputs

BLOCK = 2**20  # class scores that are computed at once, which bounds the memory

NOT_FINITE = "there is no finite score, so the image is deferred"
NO_THRESHOLD = "no threshold certifies the target error rate, so every image is deferred"
AT_OOD_THRESHOLD = "the OOD score is exactly at its threshold, so the image is deferred"
ALL_LIMITED = "the limit for all answers"
TOO_UNCERTAIN = "too uncertain to be accepted at any threshold"
SURPASSED = "another class is more probable than the predicted one"
ALL_ACCEPTED = "the policy accepts every image that is in-distribution and likely to be right"


@dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """Accepts, defers or calls out-of-distribution, with a guarantee.

    Attributes:
        calibration: From scores to class probabilities and error probabilities.
        detectors: Fitted scores of features, and class probes.
        rule: Predicts the class.
        ood_detector: Name of the OOD score.
        certificate: Thresholds, what they certify, and what was observed on the calibration set.
        model: Fingerprint or name of the model that it is for.
        unit: The unit of the guarantee: a patient, a lesion, an image, or another group.
        kind: Of the outputs: `logits` or `probabilities`.
        seed: Of the draw of one image from each group of a batch.
    """

    calibration: Calibrator
    detectors: FittedDetectors
    rule: DecisionRule
    ood_detector: str
    certificate: Certificate
    model: str
    unit: str
    kind: str
    seed: int

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

    def score(self, outputs: Outputs) -> ScoredImages:
        """Predict the class of each image, and score it.

        Numbers and probabilities are NaN where outputs are not finite, or lack them. An image of
        which a second opinion alone is not finite lacks only probabilities and what depends on
        them.
        """
        detectors, scored = self.used_detectors, unscored(outputs)
        finite = np.flatnonzero(outputs.finite)
        for rows in np.array_split(finite, 1 + outputs.logits[finite].size // BLOCK):
            block = outputs.select(rows)
            scores, evidence = scores_of_outputs(block, detectors), detectors.evidence(block)
            judged = self.calibration.judge(scores, block.logits, evidence, block.opinions)
            scored.probabilities[rows], scored.predicted[rows] = judged[:2]
            scored.acceptance_score[rows] = judged[2]
            if self.calibration.loss is not None and block.predicted_losses is not None:
                scored.expected_loss[rows] = self.calibration.loss(scores["predicted_loss"])
            scored.ood_score[rows] = scores[self.ood_detector]
        return self.judged(scored, ood_p_value=self.certificate.ood_p_values(scored.ood_score))

    def judged(self, scored: ScoredImages, **changes: Values | Logits | Classes) -> ScoredImages:
        """Images with these changes, the error probability of each answer, and if it is acceptable.

        Error probabilities are NaN where they are not shown.
        """
        changed = replace(scored, **changes)
        answers = self.calibration.answers_of(changed.predicted)
        probabilities = self.calibration.sums(changed.probabilities)
        errors = error_probabilities(probabilities, answers)
        acceptable = self.rule.mark_acceptable(probabilities, answers, errors)
        if not self.certificate.shows_errors:
            errors = np.full_like(errors, np.nan)
        return replace(changed, error_probability=errors, acceptable=acceptable)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.certificate.classes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the thresholds, what they are compared with, and how classes are predicted."""
        parts = (self.model, self.certificate, self.calibration, self.rule, self.ood_detector)
        return sha256_of(repr(parts).encode())

    @property
    def scorer(self) -> str:
        """SHA-256 of how images are scored and classes predicted, without the thresholds."""
        parts = (self.model, self.calibration, self.rule, self.ood_detector)
        return sha256_of(repr(parts).encode())

    def decide(
        self,
        images: Outputs | ScoredImages,
        units: Units | None = None,
        *,
        threshold: float | None = None,
    ) -> Decisions:
        """Decide for each image, whose outputs `check_outputs` has checked.

        Args:
            images: Outputs of the model, or images that `score` has scored; one with any output
                that is not finite can only be deferred.
            units: Number of the group of each image; None: each is its own.
            threshold: That of the batch that these images belong to; None: they are the batch.

        Raises:
            DataError: They are too few for the average guarantee, or nothing is certified yet.
        """
        if not self.certificate.cases:
            raise DataError(
                "no case of this draw has a label yet; run `misgiving calibrate --labels`"
            )
        scored = self.score(images) if isinstance(images, Outputs) else images
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
            policy=self,
        )

    def reason_of(
        self,
        decision: str,
        numbers: Mapping[str, float],
        threshold: float,
        errors: tuple[float, float],
    ) -> str:
        """The reason of a decision, in terms of the number that decided.

        Args:
            decision: `accept`, `defer` or `ood`.
            numbers: Of the image, by their columns.
            threshold: Lowest accepted score.
            errors: Error probabilities of the image, also where it is not shown, and at the
                threshold.
        """
        if decision == "ood":
            p_value, cases = numbers["ood_p_value"], len(self.certificate.ood_scores)
            below = round(p_value * (cases + 1)) - 1  # calibration cases that are no more familiar
            share = f" but {100 * below / cases:.2g} % of the" if below else ""
            less = (
                "less like the training images"
                if self.compares_with_training
                else "lower OOD score"
            )
            return f"{less} than all{share} {self._images} (p = {p_value:.2g})"
        score, ood_score = numbers["acceptance_score"], numbers["ood_score"]
        limit, highest = self.certificate.ood_threshold, self.rule.max_error_probability
        if not math.isfinite(score) or (limit is not None and not math.isfinite(ood_score)):
            return NOT_FINITE
        if errors[0] > highest:
            words = comparison("probability of error", errors[0], "above", highest, ALL_LIMITED)
            return words if self.certificate.shows_errors else TOO_UNCERTAIN
        if threshold == math.inf:
            return NO_THRESHOLD
        if ood_score == limit:
            return AT_OOD_THRESHOLD
        accepted = decision == "accept"
        return self._compared((score, threshold), errors, accepted=accepted)

    @property
    def _images(self) -> str:
        return "calibration cases" if self.certificate.pool is None else "images of the pool"

    def _compared(
        self, scores: tuple[float, float], errors: tuple[float, float], *, accepted: bool
    ) -> str:
        """The image's value and the limit, in terms of the error where that is shown."""
        reached = scores[0] >= scores[1]
        if reached and not accepted:
            return SURPASSED.replace("class", self.certificate.targets.answer)
        if scores[1] == -math.inf:
            return ALL_ACCEPTED
        if not self.certificate.shows_errors:
            return self._among_cases(*scores)
        if math.isclose(*scores) and not reached:
            return f"score {scores[0]:.4g} is just below the lowest that is accepted"
        if errors[0] == errors[1]:  # both rounded to the same
            relation = "at least" if reached else "below"
            return comparison(
                "score", scores[0], relation, scores[1], "the lowest that is accepted"
            )
        relation = "within" if reached else "above"
        role = "the highest that is accepted"
        return comparison("probability of error", errors[0], relation, errors[1], role)

    def _among_cases(self, score: float, threshold: float) -> str:
        """A score and the threshold as the shares of cases that are at least as certain."""
        certificate = self.certificate
        above = score if score >= threshold else math.nextafter(score, math.inf)
        own, most = (f"{100 * certificate.share_reaching(x):.3g} %" for x in (above, threshold))
        place = "among the most certain" if score >= threshold else "less certain than"
        return f"{place} {own} of the {self._images}; the most certain {most} can be accepted"

    def reason_of_answer(self, name: str, probabilities: Mapping[str, float]) -> str:
        """A clause on why an answer is not the most probable one; empty where it is."""
        most = max(probabilities, key=lambda other: probabilities[other])
        costs = [f"{self.rule.costs.get(other, 1.0):g}" for other in (name, most)]
        why = {
            "balanced": "for its probability relative to its share of the cases",
            "costs": f"because missing it costs {costs[0]}, and missing {most} {costs[1]}",
            "logits": "by the largest logit",
        }.get(self.rule.rule)
        is_less = probabilities[most] > probabilities[name]  # not where they are NaN
        if not is_less or self.kind == CONFIDENCE:  # of which other classes' are not known
            return ""
        if why is None:
            by = (
                "the second opinion prefers"
                if self.calibration.needs_opinions
                else "more probable is"
            )
            return f"; {by} {most}"
        return f"; {name} is predicted {why}, though {most} is more probable"

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
        certificate, selection = self.certificate, self.certificate.selection
        if selection is None or not certificate.accepted:
            return certificate.accept_threshold
        columns = scores, ood_scores, acceptable
        if units is not None and len(np.unique(units)) < len(units):
            listed = zip(*(values.tolist() for values in columns), strict=True)
            digests = [sha256_of(repr((self.seed, *each)).encode()) for each in listed]
            order = np.argsort(digests)  # at random, but the same for any order of the images
            rows = order[np.unique(units[order], return_index=True)[1]]
            scores, ood_scores, acceptable = (values[rows] for values in columns)
        above = certificate.above(ood_scores)
        candidates = above & acceptable & np.isfinite(scores)
        if certificate.pool is not None:  # the cases are of this part alone
            candidates &= scores > certificate.pool.limit
            above = candidates
            self.check_batch(int(above.sum()), " above the limit of the draw")
        return selection.threshold(scores[candidates], int(above.sum()))

    def check_batch(self, images: int, where: str = "") -> None:
        """Check that so many images can be decided together.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        if images < self.certificate.min_batch:
            raise DataError(
                *("the average guarantee of ", Parameter("max_error"), " is for batches of at "),
                f"least {self.certificate.min_batch} images{where}, got {images}; give more, or ",
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


def comparison(subject: str, value: float, relation: str, limit: float, role: str) -> str:
    """Reason that compares a number with its limit, in as many digits as show that they differ.

    >>> comparison("score", 0.4, "below", 0.75, "the lowest that is accepted")
    'score 0.40 is below 0.75, the lowest that is accepted'
    >>> comparison("score", 0.12301, "below", 0.12304, "the lowest that is accepted")
    'score 0.12301 is below 0.12304, the lowest that is accepted'
    >>> comparison("probability of error", 0.0012, "within", 0.05, "the limit for all")
    'probability of error 0.001 is within 0.050, the limit for all'
    """
    texts = repr(value), repr(limit)
    for digits in range(16, 1, -1):
        rounded = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        differ = rounded[0] != rounded[1] or value == limit
        if differ and (float(rounded[0]) or not value):  # only 0 is 0.00
            texts = rounded
    return f"{subject} {texts[0]} is {relation} {texts[1]}, {role}"
