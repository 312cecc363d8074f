"""A policy: from the outputs of its model to decisions.

It is what `Deferral` fits. Deciding reads no file and no clock, and imports nothing that fits.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy.special import expit

from misgiving.arrays import Classes, Logits, Mask, Units, Values
from misgiving.calibration.apply import Calibrator, error_probabilities
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decisions import Decisions, ScoredImages, unscored
from misgiving.deferral.targets import PREDICTED, DecisionRule
from misgiving.errors import DataError, Parameter
from misgiving.files import sha256_of
from misgiving.scores.detectors import FittedDetectors, scores_of_outputs
from misgiving.scores.features import FEATURE_SCORES
from misgiving.scores.outputs import Outputs

Columns = Mapping[str, Sequence[str]]
Parts = Int[np.ndarray, " n"]

BLOCK = 2**20  # class scores that are computed at once, which bounds the memory


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
        unit: The unit of the guarantee: a patient, a lesion, a case, or another group.
        kind: Of the outputs: `logits` or `probabilities`.
        seed: Of the draw of one case from each group of a batch.
        finer: Judges the classes, where either a class or its superclass is answered; else None.
    """

    calibration: Calibrator
    finer: Calibrator | None = None
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
        """True if the OOD score compares a case with those of the training."""
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
        """Predict the class of each case, and score it.

        Numbers and probabilities are NaN where outputs are not finite, or lack them. A case of
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
            if self.finer is not None:
                _, classes, score = self.finer.judge(scores, block.logits, evidence, block.opinions)
                of_class = np.where(classes == judged[1], self.finer.log_odds_at(score), -math.inf)
                log_odds = of_class, self.calibration.log_odds_at(judged[2])
                refined = self._refined(judged[0], judged[1], *log_odds)
                scored.class_score[rows], scored.probabilities[rows] = refined
            scored.ood_score[rows] = scores[self.ood_detector]
        return self.judged(scored, ood_p_value=self.certificate.ood_p_values(scored.ood_score))

    def judged(self, scored: ScoredImages, **changes: Values | Logits | Classes) -> ScoredImages:
        """Cases with these changes, the error probability of each answer, and if it is acceptable.

        Error probabilities are NaN where they are not shown.
        """
        changed = replace(scored, **changes)
        answers = self.calibration.answers_of(changed.predicted)
        probabilities = self.calibration.sums(changed.probabilities)
        errors = error_probabilities(probabilities, answers)
        acceptable = self.rule.mark_acceptable(probabilities, answers, errors)
        expected_costs, review_cost = changed.expected_cost, self.certificate.targets.review_cost
        if review_cost is not None:
            costs = self.rule.costs_of(self.certificate.answers)
            own = np.take_along_axis(probabilities * costs, answers[:, None], axis=1)[:, 0]
            expected_costs = probabilities @ costs - own
            acceptable &= expected_costs <= review_cost
        if not self.certificate.shows_errors:
            errors = np.full_like(errors, np.nan)
        return replace(
            changed,
            error_probability=errors,
            expected_cost=expected_costs,
            acceptable=acceptable,
        )

    def _refined(
        self, probabilities: Logits, predicted: Classes, of_class: Values, of_superclass: Values
    ) -> tuple[Values, Logits]:
        """Log-odds of the predicted classes that may be answered, and probabilities to match.

        They are the lower of both log-odds, and those of the superclass if this has one class. The
        sums of the superclasses remain.
        """
        rows = np.arange(len(predicted))
        of_each = np.array(self.calibration.superclasses)
        sums = self.calibration.sums(probabilities)[rows, of_each[predicted]]
        is_single = np.bincount(of_each)[of_each[predicted]] == 1
        log_odds = np.where(is_single, of_superclass, np.minimum(of_class, of_superclass))
        log_odds = np.where(np.isfinite(of_class), log_odds, -math.inf)
        highest = min(0.5, self.rule.max_error_probability)
        log_odds = np.where(expit(-log_odds) <= highest, log_odds, -math.inf)
        own, before = expit(log_odds), probabilities[rows, predicted]
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = np.where(sums > before, (sums - own) / (sums - before), 1.0)
        is_member = (of_each == of_each[predicted][:, None]) & np.isfinite(log_odds)[:, None]
        refined = np.where(is_member, probabilities * factors[:, None], probabilities)
        refined[rows, predicted] = np.where(np.isfinite(log_odds), own, before)
        return log_odds, refined

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.certificate.classes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the thresholds, what they are compared with, and how classes are predicted."""
        return sha256_of(f"{self.scorer} {self.certificate!r}".encode())

    @property
    def scorer(self) -> str:
        """SHA-256 of how cases are scored and classes predicted, without the thresholds."""
        parts = (self.model, self.calibration, self.finer, self.rule, self.ood_detector)
        return sha256_of(repr(parts).encode())

    def decide(
        self,
        images: Outputs | ScoredImages,
        units: Units | None = None,
        *,
        columns: Columns | None = None,
        threshold: float | Sequence[float] | None = None,
    ) -> Decisions:
        """Decide for each case, whose outputs `check_outputs` has checked.

        Args:
            images: Outputs of the model, or images that `score` has scored; one with any output
                that is not finite can only be deferred.
            units: Number of the group of each case; None: each is its own.
            columns: Cells of each case by column, for `for_each`; one that is not given has no
                value.
            threshold: That of the batch that these cases belong to, or that of each value; None:
                they are the batch.

        Raises:
            DataError: They are too few for the average guarantee, or nothing is certified yet.
        """
        if not self.certificate.cases:
            raise DataError(
                "no case of this draw has a label yet; run `misgiving calibrate --labels`"
            )
        scored = self.score(images) if isinstance(images, Outputs) else images
        part, ood_scores = self.part_of(scored.predicted, columns), scored.ood_score
        if threshold is None:
            threshold = self.thresholds(scored, part, units)
        each = np.broadcast_to(np.asarray(threshold, float), len(self.certificate.parts))
        lowest = np.append(each, math.inf)[part]
        reached = np.isfinite(scored.acceptance_score) & (scored.acceptance_score >= lowest)
        accepted = reached & scored.acceptable & self.certificate.above(ood_scores)
        limit, finer = self.certificate.ood_threshold, self.certificate.finer
        as_class = np.full(len(scored), self.certificate.targets.answer_level == "class")
        if finer is not None:
            as_class = accepted & np.isfinite(scored.class_score)
            as_class &= scored.class_score >= finer.accept_threshold
            errors = np.where(as_class, expit(-scored.class_score), scored.error_probability)
            errors = np.where(np.isfinite(scored.error_probability), errors, np.nan)  # not shown
            scored = replace(scored, error_probability=errors)
        ood = np.zeros(len(scored), dtype=bool) if limit is None else ood_scores < limit
        return Decisions(
            **scored.arrays,
            classes=self.classes,
            decisions=np.select([ood, accepted], ["ood", "accept"], "defer"),
            as_class=as_class,
            part=part,
            thresholds=tuple(each.tolist()),
            policy=self,
        )

    def values_of(self, predicted: Classes, columns: Columns | None) -> Sequence[str]:
        """Value of `for_each` of each case; empty where there is none."""
        targets, cells = self.certificate.targets, columns or {}
        if targets.for_each == PREDICTED:
            answers = self.calibration.answers_of(predicted)
            return [self.certificate.answers[answer] for answer in answers]
        return targets.values_of(cells.get(targets.column, [""] * len(predicted)))

    def part_of(self, predicted: Classes, columns: Columns | None) -> Parts:
        """Position of the certificate of each case's value; -1: there is none for it."""
        positions = {name: at for at, name in enumerate(self.certificate.parts)}
        values = self.values_of(predicted, columns)
        return np.array([positions.get(value, -1) for value in values], dtype=int)

    def thresholds(
        self, scored: ScoredImages, part: Parts, units: Units | None = None
    ) -> tuple[float, ...]:
        """The lowest accepted score of each part of a batch, the same for any order of its cases.

        One case of each group decides; without the numbers of groups, each is its own. `part` is
        that of `part_of`.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        self.check_batch(len(scored))
        columns = scored.acceptance_score, scored.ood_score, scored.acceptable
        rows = np.arange(len(scored))
        if units is not None and len(np.unique(units)) < len(units):
            listed = zip(*(values.tolist() for values in columns), strict=True)
            digests = [sha256_of(repr((self.seed, *each)).encode()) for each in listed]
            order = np.argsort(digests)  # at random, but the same for any order of the cases
            rows = order[np.unique(units[order], return_index=True)[1]]
        rows_of = [rows[part[rows] == at] for at in range(len(self.certificate.parts))]
        return tuple(
            self._threshold(each, *(values[chosen] for values in columns))
            for each, chosen in zip(self.certificate.parts.values(), rows_of, strict=True)
        )

    def _threshold(
        self, certificate: Certificate, scores: Values, ood_scores: Values, acceptable: Mask
    ) -> float:
        """The lowest accepted score of the cases of one part."""
        selection = certificate.selection
        if selection is None or not certificate.accepted:
            return certificate.accept_threshold
        above = certificate.above(ood_scores)
        candidates = above & acceptable & np.isfinite(scores)
        if certificate.pool is not None:  # the cases are of this part alone
            candidates &= scores > certificate.pool.limit
            above = candidates
            self.check_batch(int(above.sum()), " above the limit of the draw")
        if len(scores) < certificate.min_batch:  # of one value
            return math.inf
        return selection.threshold(scores[candidates], int(above.sum()))

    def check_batch(self, images: int, where: str = "") -> None:
        """Check that so many cases can be decided together.

        Raises:
            DataError: They are too few for the average guarantee.
        """
        if images < self.certificate.min_batch:
            raise DataError(
                *("the average guarantee of ", Parameter("max_error"), " is for batches of at "),
                f"least {self.certificate.min_batch} cases{where}, got {images}; give more, or ",
                *("calibrate with ", Parameter("max_silent_error")),
                " alone, which holds for each case",
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
