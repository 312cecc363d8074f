"""`SelectiveClassifier`: a scikit-learn classifier that leaves doubtful rows to a person."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import Tags, _safe_indexing, check_random_state, get_tags, indexable
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from misgiving.deferral.decisions import Decisions
from misgiving.deferral.deferral import Deferral
from misgiving.errors import DataError, Parameter, UsageError
from misgiving.predictions.record import Predictions

MAX_ERROR = 0.05  # by default


class SelectiveClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of scikit-learn, and a certified policy that says when it answers.

    `fit` keeps rows apart, which the classifier never sees, and certifies the policy with these.
    The certificate is for one fit: it does not cover a choice among several fits by their coverage.
    Search for parameters of the classifier alone, as in `SelectiveClassifier(GridSearchCV(...))`,
    and certify once. `score` counts a row that is left to a person as wrong.

    Args:
        classifier: With `predict_proba`. One that is fitted already is given as
            `FrozenEstimator(classifier)`; then all rows, which it must not have seen, certify.
        max_error: Largest share of wrong answers among those given.
        deferral: A `Deferral` with other targets, in place of `max_error`.
        held_out: Share of the rows, or of their groups, that is kept apart.
        deferred: What `predict` gives where a person is to be asked; None: -1 where the classes are
            numbers, and "defer" where they are texts.
        random_state: Of the draw of these rows.

    Attributes:
        classes_: The classes, sorted.
        classifier_: The fitted classifier.
        deferral_: The fitted `Deferral`; its `certificate_` says what is certified.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.utils import shuffle
    >>> digits, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
    >>> classifier = SelectiveClassifier(LogisticRegression(), max_error=0.05, random_state=0)
    >>> answers = classifier.fit(digits[:1500] / 16, labels[:1500]).predict(digits[1500:] / 16)
    >>> bool((answers == labels[1500:])[answers != -1].mean() > 0.95)
    True
    """

    def __init__(
        self,
        classifier: Any,
        *,
        max_error: Any = MAX_ERROR,
        deferral: Any = None,
        held_out: Any = 1 / 3,
        deferred: Any = None,
        random_state: Any = None,
    ) -> None:
        self.classifier = classifier
        self.max_error = max_error
        self.deferral = deferral
        self.held_out = held_out
        self.deferred = deferred
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "SelectiveClassifier":
        """Fit the classifier, and with other rows the policy.

        Args:
            X: Inputs of the classifier, of any kind that it takes, a row for each case.
            y: Class of each row.
            groups: Rows that are not independent, as those of a patient, have the same value.

        Raises:
            UsageError: A parameter has a value that cannot be used.
            DataError: The rows that are kept apart cannot support a policy.
        """
        deferral = self._checked()
        X, y, groups = indexable(X, y, groups)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self._set_classes(y)
        random = check_random_state(self.random_state)
        certifying = np.arange(len(y))
        if isinstance(self.classifier, FrozenEstimator):
            self.classifier_ = self.classifier
        else:
            split = GroupShuffleSplit(1, test_size=self.held_out, random_state=random)
            units = certifying if groups is None else groups
            rows, certifying = next(split.split(certifying, groups=units))
            inner = clone(self.classifier)
            self.classifier_ = inner.fit(_safe_indexing(X, rows), _safe_indexing(y, rows))
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.classifier_, name):
                setattr(self, name, getattr(self.classifier_, name))
        cases = {**self._columns(_safe_indexing(X, certifying)), "label": y[certifying]}
        if groups is not None:
            cases["group"] = _safe_indexing(groups, certifying)
        deferral.set_params(seed=int(random.randint(2**31)))
        self.deferral_ = deferral.fit(Predictions.of(cases))
        return self

    def _checked(self) -> Deferral:
        """A `Deferral` to fit, whose parameters can be used; and so can the classifier."""
        if not hasattr(self.classifier, "predict_proba"):
            kind = type(self.classifier).__name__
            raise UsageError(
                f"a {kind} has no `predict_proba`; give a CalibratedClassifierCV of it, or give "
                "its outputs to `Deferral`: fit(logits, labels)"
            )
        if self.deferral is not None and self.max_error not in (MAX_ERROR, self.deferral.max_error):
            both = Parameter("max_error"), " is that of ", Parameter("deferral"), "; give one alone"
            raise UsageError(*both)
        deferral: Deferral = clone(self.deferral or Deferral(max_error=self.max_error))
        deferral.check_parameters()
        return deferral

    def _set_classes(self, y: Any) -> None:
        """Set the classes: the fitted classifier's, which must know all labels, or the labels'."""
        is_fitted = isinstance(self.classifier, FrozenEstimator)
        self.classes_ = self.classifier.classes_ if is_fitted else np.unique(y)
        if others := {*y.tolist()} - {*self.classes_.tolist()}:
            raise DataError(f"the classifier does not know the class {min(others)!r}; correct y")
        if self._deferred in self.classes_.tolist():
            raise UsageError(Parameter("deferred", self._deferred), " is a class; choose another")

    @property
    def _deferred(self) -> Any:
        if self.deferred is not None:
            return self.deferred
        return -1 if np.issubdtype(self.classes_.dtype, np.number) else "defer"

    def _columns(self, X: Any) -> dict[str, Any]:
        """Columns of predictions; a class that the classifier has not seen has no probability."""
        outputs = self.classifier_.predict_proba(X)
        probabilities = np.zeros((len(outputs), len(self.classes_)))
        probabilities[:, np.isin(self.classes_, self.classifier_.classes_)] = outputs
        return {"probabilities": probabilities, "classes": self.classes_}

    def decide(self, X: Any) -> Decisions:
        """Decide for each row: `accept` or `defer`, with the reason."""
        check_is_fitted(self)
        deferral: Deferral = self.deferral_
        return deferral.decide(Predictions.of(self._columns(X)))

    def predict(self, X: Any) -> Any:
        """The answer for each row, or `deferred` where a person is to be asked."""
        decisions = self.decide(X)
        answers, deferred = self.classes_[decisions.predicted], np.asarray(self._deferred)
        are_numbers = [np.issubdtype(each.dtype, np.number) for each in (answers, deferred)]
        if answers.dtype == bool or are_numbers[0] != are_numbers[1]:
            answers = answers.astype(object)
        return np.where(decisions.decisions == "accept", answers, deferred)

    def predict_proba(self, X: Any) -> Any:
        """Calibrated probabilities, a column for each of `classes_`."""
        check_is_fitted(self)
        outputs = Predictions.of(self._columns(X)).outputs
        return self.deferral_.policy_.score(outputs).probabilities

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.classifier).input_tags
        return tags
