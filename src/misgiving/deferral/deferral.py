"""`Deferral`: fits the policy that accepts, defers or calls out-of-distribution; needs no torch."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from misgiving.calibration.apply import Calibrator
from misgiving.calibration.fit import Fitted
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.certify import find_remedies
from misgiving.deferral.decisions import Decisions, plots
from misgiving.deferral.draw import DrawnCases
from misgiving.deferral.fit_policy import certify_policy, fit_policy
from misgiving.deferral.guarantees import GUARANTEES, Guarantee
from misgiving.deferral.identities import Cases, Identities
from misgiving.deferral.policy import Policy
from misgiving.deferral.policy_file import (
    ASKED,
    DETECTORS,
    POLICY,
    POLICY_FOLDER,
    PolicyFile,
    write_policy,
)
from misgiving.deferral.sentences import certificate_sentences, lines
from misgiving.deferral.sets import fitting_sets
from misgiving.deferral.targets import (
    AnswerName,
    DecisionRule,
    RuleName,
    Targets,
    check_known,
)
from misgiving.errors import DataError, Parameter, UsageError, require
from misgiving.files import whole_folder
from misgiving.predictions.record import Predictions
from misgiving.scores.detectors import FittedDetectors

BY_NAME = ("class_max_miss", "costs", "superclasses")  # parameters that are empty or None


@dataclass(kw_only=True, eq=False, repr=False)
class Deferral:
    """Accept, defer or call out-of-distribution, from the outputs of any classifier.

    Follows the conventions of scikit-learn: parameters are kept as they are given and checked by
    `fit`, and attributes that are fitted end in an underscore.

    Args:
        max_error: Largest share of wrong predictions among the accepted; None: there is no such
            target; `auto`: 0.05, or none where `max_deferred` or `review_cost` is given.
        guarantee: `confident`: the targets hold with a confidence for the calibration set at hand;
            `average`: on average over calibration sets and batches of at least 50 cases; or an
            object, as `guarantees` has them.
        class_max_miss: Largest share of a class that may be accepted as another class, or of a
            superclass as another superclass, by name.
        max_silent_error: Largest share of all cases that may be accepted with a wrong prediction,
            for single cases, too.
        max_deferred: Largest share of all cases, OOD cases among them, that a person may have to
            look at. Alone it decides, as `review_cost` does, and the error there is bounded.
        review_cost: Cost of a review, beside `costs`; more expected cost is left to a person.
        max_ood_false_alarms: Largest share of ordinary cases that may be called
            out-of-distribution, with a confidence of its own; None: none is. It takes effect where
            the cases are enough for it, and there are features or an `ood_detector` is named.
        for_each: Certify `max_error` for each value of this column, with a threshold of its own:
            `predicted_class`, `site`, or `age:40,70` with limits. Other values are deferred.
        confidence: Probability, over draws of the calibration set, that the targets hold.
        simultaneous: True: the confidence is for all targets and values jointly; False: for each.
        rule: Predicts the class: `most_probable`, `balanced`, `costs` or `logits`.
        costs: Cost of answering another class for a case of a class, or another superclass where
            these are answered; 1 for those not given.
        max_error_probability: Never accept an answer whose error probability is higher.
        ood_detector: Name of the OOD score; None: `knn_layers`, `knn` without taps, or `max_logit`
            without features.
        superclasses: Classes of each superclass by its name; each class is in one.
        answer: `class`, or `superclass`, wrong only if the true class is in another one.
        seed: Of the draw of one case from each group, and of the set to tune on.

    Attributes:
        policy_: What decides.
        cases_: Digests of the cases that it was fitted on.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 900)
    >>> logits = rng.normal(size=(900, 3)) + 4 * np.eye(3)[labels]
    >>> tuning, calibration = (logits[:300], labels[:300]), (logits[300:], labels[300:])
    >>> deferral = Deferral(max_error=0.05).fit(tuning, calibration)
    >>> deferral.decide(np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))[0].decision
    'accept'
    """

    max_error: float | Literal["auto"] | None = "auto"
    guarantee: str | Guarantee = "confident"
    class_max_miss: Mapping[str, float] | None = None
    max_silent_error: float | None = None
    max_deferred: float | None = None
    review_cost: float | None = None
    max_ood_false_alarms: float | None = 0.05
    for_each: str | None = None
    confidence: float = 0.95
    simultaneous: bool = True
    rule: RuleName = "most_probable"
    costs: Mapping[str, float] | None = None
    max_error_probability: float = 0.5
    ood_detector: str | None = None
    superclasses: Mapping[str, Sequence[str]] | None = None
    answer: AnswerName = "class"
    seed: int = 0
    policy_: Policy = field(init=False)
    cases_: Cases = field(init=False)

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  # none is nested
        """Parameters by name, as they were given."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def set_params(self, **parameters: Any) -> "Deferral":
        """Change parameters; they take effect when `fit` is called."""
        Deferral.__init__(self, **(self.get_params() | parameters))
        return self

    def __str__(self) -> str:
        changed = [x.name for x in fields(self) if x.init and getattr(self, x.name) != x.default]
        return f"Deferral({', '.join(f'{name}={getattr(self, name)!r}' for name in changed)})"

    def __repr__(self) -> str:
        fitted = certificate_sentences(self, brief=True) if hasattr(self, "policy_") else []
        return "\n".join([str(self), *fitted])

    def fit(
        self,
        tuning: Any,
        calibration: Any = None,
        labels: Any = None,
        *,
        training: Any = None,
        classes: Any = None,
        looks: Sequence[int] = (),
    ) -> "Deferral":
        """Fit the probabilities to the tuning set, and certify thresholds with the calibration set.

        Three forms are taken: `Predictions`, one set or two; arrays or tensors of logits or
        probabilities, with labels as positions or names of classes, as `fit(logits, labels)` or
        for two sets as two pairs; and `fit(classifier, inputs, labels)` with a classifier that has
        `predict_proba`. The model was trained on none of these cases, except on `training`.

        Args:
            tuning: For all that is fitted or chosen.
            calibration: For the certification alone. None: `tuning` has both, named by its column
                `set`; without these, a fifth by group of the cases in no set is used for tuning.
                Or cases of `draw` with labels: then all that was fitted with the draw is used.
            labels: Of the inputs of a classifier.
            training: Predictions for cases that the model was trained on, with features, to fit
                OOD detectors; by default those of the set `train`.
            classes: Names of the classes of arrays; by default 0 to K-1.
            looks: Numbers of cases of several calibrations that were planned before the first one,
                of which this is one, with the same tuning set and the cases of those before.

        Raises:
            UsageError: A parameter has a value that cannot be used.
            DataError: The sets cannot support a policy.

        Warns:
            UserWarning: Nothing is accepted, a class has no case, or cases may be copies, or known
                to the model.
        """
        if isinstance(calibration, DrawnCases):
            self.certify_drawn(calibration, tuning)
        else:
            tuning, calibration, detectors, facts = fitting_sets(
                tuning, calibration, labels, training, classes=classes, seed=self.seed
            )
            self.certify(tuning, calibration, detectors=detectors, looks=looks, **facts)
        remedies = find_remedies(self.certificate_)
        for doubt in lines("policy.txt", "doubts", self.certificate_, remedies):
            warnings.warn(doubt, stacklevel=2)
        return self

    def certify(
        self,
        tuning: Predictions,
        calibration: Predictions,
        *,
        detectors: FittedDetectors,
        fitted: Fitted | None = None,
        looks: Sequence[int] = (),
        **facts: Any,
    ) -> "Deferral":
        """Fit the calibration, and choose and certify thresholds, on sets that are checked already.

        Args:
            tuning: For all that is fitted or chosen.
            calibration: One case of each group is drawn.
            detectors: Fitted on the training set.
            fitted: The calibration, where it was fitted on the tuning set before.
            looks: As in `fit`.
            facts: Further fields of `cases_`.

        Raises:
            DataError: The sets cannot support a policy.
            UsageError: A parameter has a value that cannot be used.
        """
        parameters = self.check_parameters(tuning.classes, looks)
        own: dict[str, Any] = {"ood_detector": self.ood_detector, "seed": self.seed}
        policy, tuned = fit_policy(tuning, detectors, fitted, parameters, looks=looks, **own)
        facts |= {"tuning": Identities.of(tuning), "calibration": Identities.of(calibration)}
        self.cases_ = Cases(**facts, group_columns=calibration.group_columns)
        self.policy_ = certify_policy(policy, tuned, calibration, parameters[2])
        return self

    def certify_drawn(self, drawn: DrawnCases, tuning: Predictions | None = None) -> "Deferral":
        """Choose and certify thresholds with the labels of drawn cases.

        Args:
            drawn: With labels.
            tuning: Checked to be that of the draw, if it is given.

        Raises:
            DataError: Too few cases have a label, or the tuning set is another.
            UsageError: The cases were drawn for other parameters.
        """
        other, cases = drawn.deferral, drawn.look
        asked = [(*x.check_parameters(), x.ood_detector, x.seed) for x in (other, self)]
        if asked[0] != asked[1]:
            raise UsageError(f"the cases were drawn for {other}, not for {self}; draw new ones")
        given = None if tuning is None else (Identities.of(tuning), tuple(tuning.labels.tolist()))
        if given not in (None, (other.cases_.tuning, other.cases_.tuning_labels)):
            raise DataError("the cases were drawn with another tuning set; draw new ones")
        self.cases_ = replace(other.cases_, calibration=Identities.of(cases))
        self.policy_ = certify_policy(other.policy_, None, cases, self.check_parameters()[2])
        return self

    def check_parameters(
        self, classes: Sequence[str] = (), looks: Sequence[int] = ()
    ) -> tuple[Targets, DecisionRule, Guarantee]:
        """The parameters in groups, checked; for a model of these classes, where they are given.

        Raises:
            UsageError: One has a value that cannot be used, or names another class; or looks or
                the target of a superclass are given for a guarantee that does not allow them.
        """
        values = self.get_params()
        values |= {name: values[name] or {} for name in BY_NAME}
        values["superclasses"] = {x: tuple(each) for x, each in values["superclasses"].items()}
        if self.max_error == "auto":
            others = self.max_deferred, self.review_cost
            values["max_error"] = 0.05 if others == (None, None) else None
        targets = Targets(**{each.name: values[each.name] for each in fields(Targets)})
        rule = DecisionRule(**{each.name: values[each.name] for each in fields(DecisionRule)})
        one_rule = targets.answer != "finest" or rule.rule == "most_probable"
        require(rule, "rule", one_rule, "be most_probable with ", Parameter("answer", "finest"))
        if classes:
            targets.check_classes(classes)
            check_known(targets.answers(classes), costs=rule.costs)
        guarantee = self.guarantee
        if isinstance(guarantee, str):
            guarantee = GUARANTEES[guarantee]
        guarantee.check_looks(looks)
        guarantee.check_class_targets(targets)
        return targets, rule, guarantee

    @property
    def certificate_(self) -> Certificate:
        """Thresholds, what they certify, and what was observed on the calibration set."""
        return self._fitted.certificate

    @property
    def calibration_(self) -> Calibrator:
        """From scores to class probabilities and error probabilities."""
        return self._fitted.calibration

    @property
    def classes_(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._fitted.classes

    @property
    def _fitted(self) -> Policy:
        if not hasattr(self, "policy_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this Deferral is not fitted yet; call `fit` first")
        return self.policy_

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type=None, target_tags=TargetTags(required=True), input_tags=InputTags()
        )

    def decide(self, data: Any, *, threshold: float | None = None) -> Decisions:
        """Decide for each case.

        Args:
            data: Outputs of the kind that the policy was fitted on; or predictions in a form that
                `Predictions.of` takes, with features where the policy has a detector of features.
                Predictions that name no model are taken to be of the policy's.
            threshold: Lowest accepted score, as in the decisions on a batch that these cases
                belong to; None: that of the policy, or the one that it chooses for a batch.

        Raises:
            DataError: A value of an array is not finite (in `Predictions`, such a case is
                deferred); or they do not suit the policy, as `decide_for` says.

        Warns:
            UserWarning: The cases are unlike the calibration cases, or the threshold is too low.
        """
        policy, it = self._fitted, self.certificate_
        predictions = Predictions.of(data, classes=policy.classes, kind=policy.kind)
        decisions = self.decide_for(predictions, threshold)
        gaps = it.gaps(decisions.acceptance_score, decisions.ood_score)
        if gaps:
            warnings.warn(lines("drift.txt", "drifted", gaps)[0], stacklevel=2)
        lowest = -math.inf if it.selection is not None else it.accept_threshold
        certified = threshold is None or threshold >= lowest
        if not certified:
            limit = f"{lowest:g}, the lowest that is certified: nothing is certified"
            warnings.warn(f"the threshold {threshold:g} is below {limit}", stacklevel=2)
        return replace(decisions, gaps=gaps, certified=certified)

    def decide_for(self, predictions: Predictions, threshold: float | None = None) -> Decisions:
        """Decide for each case of predictions, with `threshold` as in `decide`, without a warning.

        Raises:
            DataError: They are of another model, or lack what the policy reads, or are too few.
        """
        self.check_predictions(predictions)
        policy, columns = self._fitted, predictions.metadata
        self.certificate_.targets.check_columns(columns)
        outputs, units = predictions.outputs, predictions.units
        decisions = policy.decide(outputs, units, columns=columns, threshold=threshold)
        return replace(decisions, ids=predictions.ids)

    def check_predictions(self, predictions: Predictions) -> None:
        """Check that predictions are of the policy's model, and have what it reads.

        Raises:
            DataError: They are of another model, classes or kind of outputs, or lack columns.
        """
        policy = self._fitted
        policy.check_model(predictions.model or policy.model, predictions.classes)
        policy.check_opinions(predictions.opinion_models)
        policy.check_outputs(predictions)

    def plot(self, axes: Any = None) -> Any:
        """Draw risk against coverage with what is certified, on axes of matplotlib."""
        return plots().plot_certificate(self.certificate_, axes)

    def save(self, folder: str | Path) -> None:
        """Write a policy folder, whole or not at all; one that is there is replaced.

        Raises:
            UsageError: The folder has other files than those of a policy.
        """
        folder, detectors = Path(folder), self._fitted.detectors
        if os.path.lexists(folder) and not (
            folder.is_dir() and {path.name for path in folder.iterdir()} <= {POLICY, DETECTORS}
        ):
            raise UsageError(f"{folder}: exists and is not a policy; choose another folder")
        with whole_folder(folder) as partial:
            self.write(partial, detectors)

    def write(self, folder: Path, detectors: FittedDetectors) -> None:
        """Write both files, with these of the detectors, into a folder that exists."""
        asked = {name: getattr(self, name) for name in ASKED}
        write_policy(folder, replace(self._fitted, detectors=detectors), cases=self.cases_, **asked)

    @classmethod
    def of_run(cls, run: Path, *, model: str) -> "Deferral | None":
        """The policy of a run with this fingerprint of its model; None: it has none.

        Raises:
            DataError: The policy is damaged, was edited, or is for another model.
        """
        folder = run / POLICY_FOLDER
        if not folder.exists():
            return None
        deferral = cls.load(folder)
        deferral.policy_.check_model(model, where=folder / POLICY)
        return deferral

    @classmethod
    def load(cls, folder: str | Path) -> "Deferral":
        """Read the policy in a folder that `save` wrote, or in that of a run or a bundle.

        Raises:
            DataError: There is none, or a file is missing, damaged or was edited.
        """
        file, policy = PolicyFile.read(folder)
        values = vars(policy.certificate.targets) | vars(policy.rule)
        values |= {name: values[name] or None for name in BY_NAME}
        values |= {name: getattr(file, name) for name in ASKED}
        deferral = cls(**values, guarantee=policy.certificate.guarantee, seed=policy.seed)
        deferral.policy_, deferral.cases_ = policy, file.cases
        return deferral
