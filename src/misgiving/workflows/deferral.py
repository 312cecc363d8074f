"""A deferral policy for the predictions of any model, in Python and of files; needs no torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from misgiving.decisions.decision import Decision
from misgiving.decisions.engine import CASES, DecisionEngine, load_policy, save_policy
from misgiving.decisions.fit_policy import fit_engine
from misgiving.decisions.rules import DecisionRule, RuleName
from misgiving.deferral.targets import Targets
from misgiving.errors import DataError
from misgiving.groups import unit_of, unit_sentences
from misgiving.manifests import sha256_of_lines
from misgiving.predictions.record import Predictions
from misgiving.report.evaluation.findings import findings_of
from misgiving.results.formats import read_document
from misgiving.results.policy_cases import PolicyCases
from misgiving.scores.detectors import FittedDetectors, default_ood_detector
from misgiving.workflows.calibration_history import (
    History,
    read_history,
    refuse_folder_of_run,
    refuse_other_folder,
)
from misgiving.workflows.evaluation_report import (
    calibration_cases,
    evaluated_images,
    write_report,
)
from misgiving.workflows.policy_evaluation import measure_decisions
from misgiving.workflows.prediction_sets import (
    Sets,
    fit_detectors,
    identities,
    of_model,
    refuse_copies,
    refuse_other_classes,
    refuse_other_outputs,
    sizes_of,
    split_table,
)
from misgiving.workflows.predictions import (
    metadata_of,
    pictures_of,
    rows_for_policy,
    rows_to_measure,
)

UNNAMED = "unnamed"  # the model of predictions that do not name one


class Deferral(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Accept, defer or call out-of-distribution, from the outputs of any classifier.

    Follows the conventions of scikit-learn: parameters are kept as they are given and checked by
    `fit`, and what is fitted ends in an underscore.

    Args:
        max_error: Largest share of wrong predictions among the accepted.
        class_max_miss: Largest share of a class that may be accepted as another class, by name.
        max_ood_false_alarms: Largest share of ordinary images that may be called
            out-of-distribution; None: none is.
        confidence: Probability, over draws of the calibration set, that the targets hold.
        simultaneous: True: the confidence is for all targets jointly; False: for each.
        rule: Names the classes: `most_probable`, `balanced`, `costs` or `logits`.
        costs: Cost of naming another class for a case of a class; 1 for those not given.
        max_error_probability: Never accept an answer whose error probability is higher.
        ood_detector: Name of the OOD score; None: `knn`, or `max_logit` without features.
        seed: Of the draw of one image from each group, and of the set to tune on.

    Attributes:
        engine_: Turns outputs into decisions.
        policy_: Thresholds, and what they certify.
        cases_: The images that it was fitted on.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 900)
    >>> logits = rng.normal(size=(900, 3)) + 4 * np.eye(3)[labels]
    >>> tuning, calibration = (logits[:300], labels[:300]), (logits[300:], labels[300:])
    >>> deferral = Deferral(max_error=0.05).fit(tuning, calibration)
    >>> deferral.decide(np.array([[9.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))[0].decision
    'accept'
    """

    def __init__(
        self,
        *,
        max_error: float = 0.05,
        class_max_miss: Mapping[str, float] | None = None,
        max_ood_false_alarms: float | None = None,
        confidence: float = 0.95,
        simultaneous: bool = True,
        rule: RuleName = "most_probable",
        costs: Mapping[str, float] | None = None,
        max_error_probability: float = 0.5,
        ood_detector: str | None = None,
        seed: int = 0,
    ) -> None:
        self.max_error = max_error
        self.class_max_miss = class_max_miss
        self.max_ood_false_alarms = max_ood_false_alarms
        self.confidence = confidence
        self.simultaneous = simultaneous
        self.rule = rule
        self.costs = costs
        self.max_error_probability = max_error_probability
        self.ood_detector = ood_detector
        self.seed = seed

    def fit(
        self,
        tuning: Any,
        calibration: Any = None,
        *,
        training: Any = None,
        classes: Any = None,
        data: str = "",
    ) -> "Deferral":
        """Choose thresholds with the tuning set, and certify them with the calibration set.

        Each set is a pair of arrays or tensors (logits, labels), with labels as positions or names
        of classes; `Predictions`, or a data frame or a mapping with the columns of
        a file of them. The model was trained on none of these images, except on `training`.

        Args:
            tuning: For all that is chosen.
            calibration: For the certification alone. None: `tuning` has both, named by its column
                `set`; without that column, a quarter of it by group is used for tuning.
            training: Images that the model was trained on, with features, to fit OOD detectors.
            classes: Names of the classes of arrays; by default 0 to K-1.
            data: Name of the data, for the record.

        Raises:
            UsageError: A parameter has a value that cannot be used.
            DataError: The sets cannot support a policy.
        """
        targets, rule = self._targets(), self._rule()
        sets = self._sets(tuning, calibration, training, classes)
        detectors, remark = fit_detectors(sets.training)
        tune, certified = identities(sets.tuning), identities(sets.calibration)
        columns = sets.calibration.group_columns
        fitted = fit_engine(
            sets.tuning,
            sets.calibration,
            detectors,
            targets,
            rule=rule,
            seed=self.seed,
            calibration_fingerprint=sha256_of_lines(certified.hashes),
            unit=unit_of(columns, sets.calibration.groups),
            ood_detector=self.ood_detector or default_ood_detector(detectors),
        )
        self.engine_, self.policy_ = fitted.engine, fitted.policy
        units = unit_sentences(columns, sets.tuning.groups + sets.calibration.groups)
        self.cases_ = History().with_calibration(
            tune,
            certified,
            data=data,
            seed=self.seed,
            group_columns=columns,
            fingerprint=self.policy_.calibration_fingerprint,
            max_error=targets.max_error,
            notes=[*units, *sets.summary, remark, *fitted.notes],
            outputs=sets.calibration.outputs,
        )
        return self

    @property
    def classes_(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self._engine.classes

    @property
    def _engine(self) -> DecisionEngine:
        check_is_fitted(self, "engine_")
        return self.engine_

    def decide(self, data: Any) -> list[Decision]:
        """Decide for each image.

        Args:
            data: Logits as an array or tensor; or predictions in one of the forms that `fit` takes,
                with features where the policy has a detector of features.

        Raises:
            DataError: A value of an array or column is not finite; in `Predictions`, such an image
                is deferred.
        """
        predictions = self.as_table(data)
        return self._engine.decide_predictions(predictions)

    def as_table(self, data: Any) -> Predictions:
        """Predictions for this policy: those that name no model are taken to be of its model."""
        engine = self._engine
        table = Predictions.of(data, classes=engine.classes)
        engine.refuse_other_classes(table.classes)
        refuse_other_outputs(table, self.cases_.outputs)
        return of_model(table, self.policy_.model_fingerprint)

    def summary(self) -> str:
        """Summary for people: the sets, what was fitted, and what it certifies."""
        self._engine  # noqa: B018  # refuses where nothing is fitted
        return "\n".join([*self.cases_.notes, *self.policy_.summary()])

    def report(self, path: str | Path, test: Any = None) -> Path:
        """Write a report on the policy as one HTML file, and return its path.

        Without `test` it shows what was certified and what was observed on the calibration cases;
        with `test` the decisions on those of its images that the policy was not fitted on.

        Args:
            path: The file.
            test: Labelled images, in one of the forms that `fit` takes.

        Raises:
            DataError: An image of `test` has no label.
        """
        engine = self._engine
        if test is None:
            evaluated = calibration_cases(engine, self.cases_.notes)
            return write_report(Path(path), evaluated, findings_of(evaluated))
        table, chosen = rows_to_measure(self.as_table(test))
        rows, remarks, warnings = rows_for_policy(table, self.cases_, named=False)
        table = table.select(rows)
        metadata, predictions = metadata_of(table), table
        decisions = engine.decide_predictions(predictions)
        evaluated = evaluated_images(
            "decisions of a deferral policy",
            predictions,
            metadata,
            unit=unit_of(table.group_columns, predictions.groups),
            policy=self.policy_,
            decided=measure_decisions(
                decisions, predictions, "test", metadata, seed=self.policy_.seed
            ),
            picture=pictures_of(table),
            warnings=warnings,
            notes=[*self.cases_.notes, *chosen, *remarks],
        )
        return write_report(Path(path), evaluated, findings_of(evaluated))

    def save(self, folder: str | Path) -> None:
        """Write a policy folder, whole or not at all; one that is there is replaced.

        If that one was fitted with some of these cases, the policy says so from then on.

        Raises:
            UsageError: The folder has other files than those of a policy.
        """
        folder, engine, cases = Path(folder), self._engine, self.cases_
        refuse_other_folder(folder)
        refuse_folder_of_run(folder)
        if (folder / CASES).exists() and not self._is_saved(folder):
            history = read_history(folder)
            repeated = history.repeated((cases.tune, cases.calibration))
            self.policy_ = replace(self.policy_, repeated=repeated)
            self.engine_ = engine = replace(engine, policy=self.policy_)
            self.cases_ = cases = history.followed_by(cases)
        save_policy(folder, engine, cases)

    def _is_saved(self, folder: Path) -> bool:
        try:
            return load_policy(folder).policy == self.policy_
        except DataError:
            return False

    @classmethod
    def load(cls, folder: str | Path) -> "Deferral":
        """Read a policy folder that `save` or `misgiving calibrate` wrote.

        Raises:
            DataError: There is none, or a file is missing, damaged or was edited.
        """
        folder = Path(folder)
        engine = load_policy(folder)
        policy = engine.policy
        if policy is None:
            raise ValueError("a policy folder has a policy")
        targets, detectors = policy.targets, engine.detectors or FittedDetectors.none()
        by_default = policy.ood_detector == default_ood_detector(detectors)
        found = cls(
            max_error=targets.max_error,
            class_max_miss=dict(targets.class_max_miss) or None,
            max_ood_false_alarms=targets.max_ood_false_alarms,
            confidence=targets.confidence,
            simultaneous=targets.simultaneous,
            rule=cast(RuleName, policy.rule),
            costs=dict(policy.costs) or None,
            max_error_probability=policy.max_error_probability,
            ood_detector=None if by_default else policy.ood_detector,
            seed=policy.seed,
        )
        found.engine_, found.policy_ = engine, policy
        found.cases_ = read_document(folder / CASES, PolicyCases)
        return found

    def _targets(self) -> Targets:
        return Targets(
            max_error=self.max_error,
            confidence=self.confidence,
            class_max_miss=self.class_max_miss or {},
            max_ood_false_alarms=self.max_ood_false_alarms,
            simultaneous=self.simultaneous,
        )

    def _rule(self) -> DecisionRule:
        return DecisionRule(
            rule=self.rule,
            costs=self.costs or {},
            max_error_probability=self.max_error_probability,
        )

    def _sets(self, tuning: Any, calibration: Any, training: Any, classes: Any) -> Sets:
        """The tables of all sets, named where they name no model, with labels."""
        if calibration is None:
            sets = split_table(Predictions.of(tuning, classes=classes), seed=self.seed)
        else:
            tables = (
                Predictions.of(tuning, classes=classes, name="tuning"),
                Predictions.of(calibration, classes=classes, name="calibration"),
            )
            refuse_copies(*tables)
            sets = Sets(None, *tables, [sizes_of(*(of.units for of in tables))])
        if training is not None:
            trained_on = Predictions.of(training, classes=classes, name="training")
            refuse_other_classes(trained_on, sets.tuning)
            sets = sets._replace(training=trained_on)
        for table in (sets.tuning, sets.calibration):
            table.check_labelled()
        return sets._replace(
            tuning=of_model(sets.tuning, UNNAMED), calibration=of_model(sets.calibration, UNNAMED)
        )
