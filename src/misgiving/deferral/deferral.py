"""`Deferral`: accept, defer or call out-of-distribution, with a guarantee; needs no torch."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from misgiving.calibration.apply import Calibrator, Logits, Opinions, Values
from misgiving.calibration.fit import Fitted, fit_calibrator
from misgiving.checksums import sha256_of
from misgiving.deferral.cases import Cases, fitting_sets
from misgiving.deferral.certificate import Certificate, certify_thresholds, find_remedies
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.policy_file import AGAIN, FITTED, POLICY, POLICY_FOLDER, PolicyFile
from misgiving.deferral.scoring import check_opinions, outputs_of, scored_cases, scored_columns
from misgiving.deferral.selection import MIN_BATCH
from misgiving.deferral.settings import DecisionRule, Guarantee, RuleName, Targets, check_known
from misgiving.errors import DataError, UsageError, explain_damage
from misgiving.groups import unit_of
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors, default_ood_detector
from misgiving.scores.features import FEATURE_SCORES, Features, Taps


@dataclass(kw_only=True, eq=False, repr=False)
class Deferral:
    """Accept, defer or call out-of-distribution, from the outputs of any classifier.

    Follows the conventions of scikit-learn: parameters are kept as they are given and checked by
    `fit`, and attributes that are fitted end in an underscore.

    Args:
        max_error: Largest share of wrong predictions among the accepted; None: there is no such
            target.
        guarantee: `confident`: the targets hold with a confidence for the calibration set at hand;
            `average`: on average over calibration sets and batches of at least 50 images.
        class_max_miss: Largest share of a class that may be accepted as another class, by name.
        max_silent_error: Largest share of all images that may be accepted with a wrong prediction,
            for single images, too.
        max_ood_false_alarms: Largest share of ordinary images that may be called
            out-of-distribution, with a confidence of its own; None: none is. It takes effect where
            the cases are enough for it, and there are features or an `ood_detector` is named.
        confidence: Probability, over draws of the calibration set, that the targets hold.
        simultaneous: True: the confidence is for all targets of errors jointly; False: for each.
        rule: Predicts the class: `most_probable`, `balanced`, `costs` or `logits`.
        costs: Cost of predicting another class for a case of a class; 1 for those not given.
        max_error_probability: Never accept an answer whose error probability is higher.
        ood_detector: Name of the OOD score; None: `knn`, or `max_logit` without features.
        seed: Of the draw of one image from each group, and of the set to tune on.

    Attributes:
        certificate_: Thresholds, what they certify, and what was observed on the calibration set.
        calibration_: From scores to class probabilities and error probabilities.
        detectors_: Fitted scores of features, and class probes.
        rule_: Predicts the class.
        ood_detector_: Name of the OOD score.
        cases_: Digests of the images that it was fitted on.
        model_: Fingerprint or name of the model that it is for.
        unit_: The unit of the guarantee: a patient, a lesion, an image, or another group.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 900)
    >>> logits = rng.normal(size=(900, 3)) + 4 * np.eye(3)[labels]
    >>> tuning, calibration = (logits[:300], labels[:300]), (logits[300:], labels[300:])
    >>> deferral = Deferral(max_error=0.05).fit(tuning, calibration)
    >>> deferral.decide(np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))[0].decision
    'accept'
    """

    max_error: float | None = 0.05
    guarantee: Guarantee = "confident"
    class_max_miss: Mapping[str, float] | None = None
    max_silent_error: float | None = None
    max_ood_false_alarms: float | None = 0.05
    confidence: float = 0.95
    simultaneous: bool = True
    rule: RuleName = "most_probable"
    costs: Mapping[str, float] | None = None
    max_error_probability: float = 0.5
    ood_detector: str | None = None
    seed: int = 0
    certificate_: Certificate = field(init=False)
    calibration_: Calibrator = field(init=False)
    detectors_: FittedDetectors = field(init=False)
    rule_: DecisionRule = field(init=False)
    ood_detector_: str = field(init=False)
    cases_: Cases = field(init=False)
    model_: str = field(init=False)
    unit_: str = field(init=False)

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  # none is nested
        """Parameters by name, as they were given."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def set_params(self, **parameters: Any) -> "Deferral":
        """Change parameters; they take effect when `fit` is called."""
        Deferral.__init__(self, **(self.get_params() | parameters))
        return self

    def __repr__(self) -> str:
        changed = [x.name for x in fields(self) if x.init and getattr(self, x.name) != x.default]
        return f"Deferral({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    def fit(
        self,
        tuning: Any,
        calibration: Any = None,
        labels: Any = None,
        *,
        training: Any = None,
        classes: Any = None,
    ) -> "Deferral":
        """Fit the probabilities to the tuning set, and certify thresholds with the calibration set.

        Each set is `Predictions`, a data frame or mapping with their columns, or a pair of arrays
        or tensors (logits, labels), with labels as positions or names of classes. The model was
        trained on none of these images, except on `training`. One set alone may also be given as
        `fit(logits, labels)` or `fit(classifier, inputs, labels)`.

        Args:
            tuning: For all that is fitted or chosen.
            calibration: For the certification alone. None: `tuning` has both, named by its column
                `set`; without these, a fifth by group of the images in no set is used for tuning.
            labels: Of inputs in place of `calibration`, and of a classifier with `predict_proba`.
            training: Images that the model was trained on, with features, to fit OOD detectors; by
                default those of the set `train`.
            classes: Names of the classes of arrays; by default 0 to K-1.

        Raises:
            UsageError: A parameter has a value that cannot be used.
            DataError: The sets cannot support a policy.

        Warns:
            UserWarning: Nothing is accepted, a class has no case, or cases may be copies.
        """
        self.check_parameters()
        tuning, calibration, detectors, facts = fitting_sets(
            tuning, calibration, labels, training, classes=classes, seed=self.seed
        )
        self.certify(tuning, calibration, detectors=detectors, **facts)
        if not self.certificate_.accepted:
            remedies = [f"{way}: {x:g}" for way, x in find_remedies(self.certificate_).items()]
            warnings.warn("; ".join(["nothing is accepted", *remedies]), stacklevel=2)
        return self

    def certify(
        self,
        tuning: Predictions,
        calibration: Predictions,
        *,
        detectors: FittedDetectors,
        fitted: Fitted | None = None,
        **facts: Any,
    ) -> "Deferral":
        """Fit the calibration, and choose and certify thresholds, on sets that are checked already.

        Args:
            tuning: For all that is fitted or chosen.
            calibration: One image of each group is drawn.
            detectors: Fitted on the training set.
            fitted: The calibration, where it was fitted on the tuning set before.
            facts: Further fields of `cases_`.

        Raises:
            DataError: The sets cannot support a policy.
            UsageError: A parameter has a value that cannot be used.
        """
        targets, self.rule_ = self.check_parameters(tuning.classes)
        if fitted is None:
            weigh = partial(self.rule_.class_weights, tuning.classes)
            fitted = fit_calibrator(tuning, detectors, weigh)
        self.calibration_, self.detectors_ = fitted.calibrator, detectors
        self.ood_detector_ = self.ood_detector or default_ood_detector(detectors)
        if not (self.ood_detector or self.compares_with_training):
            targets = replace(targets, max_ood_false_alarms=None)
        score = partial(
            scored_cases,
            detectors=detectors,
            fitted=fitted,
            rule=self.rule_,
            ood_detector=self.ood_detector_,
        )
        tuned, certified = score(tuning, of_tuning=True), score(calibration)
        self.certificate_ = certify_thresholds(
            tuned[tuning.one_per_group(seed=self.seed)],
            certified[calibration.one_per_group(seed=self.seed)],
            targets,
            classes=calibration.classes,
        )
        self.cases_ = Cases.of(tuning, calibration, **facts)
        self.model_ = tuning.model or "unnamed"
        self.unit_ = unit_of(calibration.group_columns)
        return self

    def check_parameters(self, classes: Sequence[str] = ()) -> tuple[Targets, DecisionRule]:
        """The parameters in groups, checked; for a model of these classes, where they are given.

        Raises:
            UsageError: One has a value that cannot be used, or names another class.
        """
        values = self.get_params()
        values |= {name: values[name] or {} for name in ("class_max_miss", "costs")}
        targets = Targets(**{each.name: values[each.name] for each in fields(Targets)})
        rule = DecisionRule(**{each.name: values[each.name] for each in fields(DecisionRule)})
        if classes:
            check_known(classes, class_max_miss=targets.class_max_miss, costs=rule.costs)
        return targets, rule

    @property
    def classes_(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._fitted.certificate_.classes

    @property
    def compares_with_training(self) -> bool:
        """True if the OOD score compares an image with those of the training."""
        return self.ood_detector_ in FEATURE_SCORES

    @property
    def used_detectors(self) -> FittedDetectors:
        """The detectors that decisions depend on; the others are not computed."""
        names = [name for name in self.detectors_.names if name == self.ood_detector_]
        return self.detectors_.only(names, probes=self.calibration_.needs_evidence)

    @property
    def needs_predicted_losses(self) -> bool:
        """True if decisions or expected losses depend on them."""
        return self.calibration_.loss is not None or self.ood_detector_ == "predicted_loss"

    @property
    def _fitted(self) -> "Deferral":
        if not hasattr(self, "certificate_"):
            raise UsageError("this Deferral is not fitted yet; call `fit` first")
        return self

    def decide(self, data: Any, *, threshold: float | None = None) -> Decisions:
        """Decide for each image.

        Args:
            data: Outputs of the kind that the policy was fitted on; or predictions in one of the
                forms that `fit` takes, with features where the policy has a detector of features.
                Predictions that name no model are taken to be of the policy's.
            threshold: Lowest accepted score, as in the decisions on a batch that these images
                belong to; None: that of the policy, or the one that it chooses for a batch.

        Raises:
            DataError: A value of an array or column is not finite; in `Predictions`, such an image
                is deferred. Or they are of another model, or lack what the policy reads, or are
                too few for the average guarantee.
        """
        predictions = Predictions.of(data, classes=self.classes_, outputs=self.cases_.outputs)
        self.check_predictions(predictions)
        scored = self.score_outputs(*outputs_of(predictions))
        if threshold is None:
            threshold = self.certificate_.batch_threshold(
                *scored.judged, predictions.units, seed=self.seed
            )
        return replace(scored.by_threshold(threshold), ids=predictions.ids)

    def score_outputs(
        self,
        logits: Logits,
        features: Features | None = None,
        predicted_losses: Values | None = None,
        taps: Taps | None = None,
        opinions: Opinions | None = None,
    ) -> Decisions:
        """Predict the class of each image, and score it, without a decision yet.

        Args:
            logits: Class scores before the softmax; an image with any output that is not finite
                can only be deferred.
            features: Input of the last linear layer.
            predicted_losses: Outputs of a trained loss estimator.
            taps: Averages of the activations that the loss estimator reads.
            opinions: Probabilities by each model of `calibration_.needs_opinions`, by name.
        """
        columns = scored_columns(
            (logits, features, predicted_losses, taps, opinions or {}),
            self.used_detectors,
            self.calibration_,
            ood_detector=self.ood_detector_,
        )
        columns["ood_p_value"] = self.certificate_.ood_p_values(columns["ood_score"])
        return self.undecided(**columns)

    def undecided(self, **columns: Any) -> Decisions:
        """Decisions of this policy with these columns, without a decision yet."""
        return Decisions.undecided(
            self.classes_,
            certificate=self.certificate_,
            rule=self.rule_,
            accepts_by_probability=self.calibration_.accepts_by_probability,
            knows_training=self.compares_with_training,
            **columns,
        )

    def check_model(
        self, model: str, classes: tuple[str, ...] | None = None, *, where: Path | None = None
    ) -> None:
        """Check that a model, with these classes where they are given, is the calibrated one.

        Raises:
            DataError: It is another one; the message begins with `where`, if that is given.
        """
        place = f"{where}: " if where else ""
        if classes not in (None, self.classes_):
            raise DataError(
                f"{place}the policy is for the classes {', '.join(self.classes_)}, and the "
                f"predictions for {', '.join(classes or ())}; they must be the same in this order"
            )
        if model != self._fitted.model_:
            raise DataError(
                f"{place}the policy was calibrated for the model {self.model_[:12]}, not for "
                f"{model[:12]}; run `misgiving calibrate` for this model"
            )

    def check_predictions(self, predictions: Predictions) -> None:
        """Check that predictions are of the policy's model, and have what it reads.

        Raises:
            DataError: They are of another model, classes or kind of outputs, or lack columns.
        """
        self.check_model(predictions.model or self._fitted.model_, predictions.classes)
        if predictions.outputs != self.cases_.outputs:
            raise DataError(
                f"the predictions are {predictions.outputs}, and the policy was fitted on "
                f"{self.cases_.outputs}, with which their scores cannot be compared; give these"
            )
        check_opinions(self.calibration_, predictions.opinion_models)
        lacking = self.used_detectors.lacking_columns(
            predictions, predicted_losses=self.needs_predicted_losses
        )
        needed = self.calibration_.needs_opinions
        lacking += [f"the second opinion of {x}" for x in needed if x not in predictions.opinions]
        if lacking:
            raise DataError(
                f"the policy needs {' and '.join(lacking)}, which these predictions do not have; "
                "predict again with the run or its bundle"
            )

    def save(self, folder: str | Path) -> None:
        """Write a policy folder, whole or not at all; one that is there is replaced.

        If that one was fitted with some of these cases, `cases_` says so from then on.

        Raises:
            UsageError: The folder has other files than those of a policy.
        """
        self.cases_ = PolicyFile.of(self._fitted).save(Path(folder), self.detectors_)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the thresholds, what they are compared with, and how classes are predicted."""
        parts = (self._fitted.certificate_, self.calibration_, self.rule_, self.ood_detector_)
        return sha256_of(repr((self.model_, *parts)).encode())

    @classmethod
    def of_run(cls, run: Path, *, model: str) -> "Deferral | None":
        """The policy of a run with this fingerprint of its model; None: it has none.

        Raises:
            DataError: The policy is damaged, was edited, or is for another model.
        """
        if not (run / POLICY_FOLDER).exists():
            return None
        deferral = cls.load(run / POLICY_FOLDER)
        deferral.check_model(model, where=run / POLICY_FOLDER / POLICY)
        return deferral

    @classmethod
    def load(cls, folder: str | Path) -> "Deferral":
        """Read the policy in a folder that `save` wrote, or in that of a run or a bundle.

        It decides on blank outputs first, so that one that cannot decide is refused here.

        Raises:
            DataError: There is none, or a file is missing, damaged or was edited.
        """
        folder = Path(folder)
        folder = folder if (folder / POLICY).is_file() else folder / POLICY_FOLDER
        policy = PolicyFile.read(folder)
        deferral = cls(**policy.parameters)
        for name in FITTED:
            setattr(deferral, f"{name}_", getattr(policy, name))
        deferral.detectors_ = policy.read_detectors(folder)
        deferral.ood_detector_ = policy.ood_detector or default_ood_detector(deferral.detectors_)
        with explain_damage(folder / POLICY, remedy=AGAIN), np.errstate(all="ignore"):
            widths = (len(deferral.classes_), *deferral.used_detectors.widths)
            logits, features, taps = (np.zeros((MIN_BATCH, width)) for width in widths)
            opinions = dict.fromkeys(deferral.calibration_.needs_opinions, logits)
            scored = deferral.score_outputs(logits, features, logits[:, 0], taps, opinions)
            chosen = deferral.certificate_.batch_threshold(*scored.judged, seed=deferral.seed)
            scored.by_threshold(chosen)[0]
        return deferral
