"""`SelectiveClassifier` among the estimators of scikit-learn."""

import numpy as np
import pandas
import pytest
from sklearn.datasets import make_classification
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from misgiving import Deferral, SelectiveClassifier
from misgiving.errors import DataError, UsageError

ANSWERS_NOT_ALL = "it leaves rows to a person, with the answer -1"
EXPECTED = {
    "check_classifiers_train": ANSWERS_NOT_ALL,
    "check_classifiers_classes": f"{ANSWERS_NOT_ALL}, which is one of its classes",
}
INPUTS, LABELS = make_classification(
    2000, n_classes=3, n_informative=6, class_sep=2.0, random_state=0
)
GROUPS = np.arange(2000) // 4
NAMES = np.array(["owl", "cat", "dog"])[LABELS]


@parametrize_with_checks(
    [SelectiveClassifier(LogisticRegression(), held_out=0.6)],
    expected_failed_checks=lambda _: EXPECTED,
)
@pytest.mark.filterwarnings("ignore")
def test_conventions_of_scikit_learn(estimator, check):
    check(estimator)


class Remembering(LogisticRegression):
    """A classifier that keeps the rows that it was fitted on."""

    def fit(self, inputs, labels):
        self.rows_ = inputs
        return super().fit(inputs, labels)


def test_the_classifier_never_sees_a_group_that_certifies():
    fitted = SelectiveClassifier(Remembering(), max_error=0.2, random_state=1)
    fitted.fit(INPUTS, LABELS, groups=GROUPS)
    rows = {row.tobytes() for row in fitted.classifier_.rows_}
    seen = np.array([row.tobytes() in rows for row in INPUTS])
    assert len({*GROUPS[seen]} & {*GROUPS[~seen]}) == 0
    assert (~seen).sum() == pytest.approx(2000 / 3, abs=8)
    cases = fitted.deferral_.cases_
    assert len(cases.tuning) + len(cases.calibration) == (~seen).sum()
    counts = cases.calibration.group_count, cases.tuning.group_count
    assert sum(counts) == len({*GROUPS[~seen]})


def test_answers_are_the_classes_or_that_a_person_is_asked():
    frame = pandas.DataFrame(INPUTS).add_prefix("x")
    fitted = SelectiveClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()),
        deferral=Deferral(max_error=0.1, guarantee="average"),
        random_state=0,
    ).fit(frame[:1500], NAMES[:1500])
    answers = fitted.predict(frame[1500:])
    accepted = fitted.decide(frame[1500:]).decisions == "accept"
    assert {*answers} == {"cat", "defer", "dog", "owl"}
    assert ((answers != "defer") == accepted).all()
    assert (answers == NAMES[1500:])[accepted].mean() > 0.75
    likeliest = fitted.classes_[fitted.predict_proba(frame[1500:]).argmax(axis=1)]
    assert (likeliest == answers)[accepted].all()
    assert fitted.feature_names_in_.tolist() == frame.columns.tolist()


def test_a_fitted_classifier_is_not_fitted_again_and_all_rows_certify():
    inner = LogisticRegression().fit(INPUTS[:1000], LABELS[:1000] + 1)
    fitted = SelectiveClassifier(
        FrozenEstimator(inner), max_error=0.1, deferred=0, random_state=0
    ).fit(INPUTS[1000:], LABELS[1000:] + 1)
    assert fitted.classifier_.estimator is inner
    assert len(fitted.deferral_.cases_.calibration) == 800
    assert {*fitted.predict(INPUTS[:200])} == {0, 1, 2, 3}
    with pytest.raises(UsageError, match=r"deferred=1. is a class"):
        fitted.set_params(deferred=1).fit(INPUTS[1000:], LABELS[1000:] + 1)


@pytest.mark.parametrize(
    ("labels", "deferred"), [(LABELS > 0, "defer"), (LABELS, "ask"), (LABELS * 1.0, -1.0)]
)
def test_answers_keep_the_type_of_the_classes(labels, deferred):
    fitted = SelectiveClassifier(LogisticRegression(), max_error=0.1, random_state=0)
    if deferred == "ask":
        fitted.set_params(deferred=deferred)
    answers = fitted.fit(INPUTS, labels).predict(INPUTS)
    given = [answer for answer in answers.tolist() if answer != deferred]
    assert deferred in answers
    assert {*map(type, given)} == {type(labels.tolist()[0])}


class Unfittable(LogisticRegression):
    """A classifier that must not be fitted."""

    def fit(self, *_):
        raise AssertionError


@pytest.mark.parametrize(
    ("classifier", "parameters", "says"),
    [
        (Unfittable(), {"max_error": 5.0}, "max_error"),
        (LinearSVC(), {}, "LinearSVC has no .predict_proba.*CalibratedClassifierCV"),
    ],
)
def test_what_cannot_be_used_is_refused_before_the_classifier_is_fitted(
    classifier, parameters, says
):
    with pytest.raises(UsageError, match=says):
        SelectiveClassifier(classifier, **parameters).fit(INPUTS, LABELS)


@pytest.mark.filterwarnings("ignore")
def test_texts_are_classified_and_a_class_that_was_never_trained_on_is_never_answered():
    random = np.random.default_rng(0)
    labels = random.permutation(["spam"] * 1500 + ["ham"] * 1497 + ["rare"] * 3)
    words = {"spam": "win now free", "ham": "see you there", "rare": "odd"}
    texts = [" ".join(random.choice(words[label].split(), 4)) for label in labels]
    groups = np.where(labels == "rare", -1, np.arange(3000))  # all are kept apart with this seed
    inner = make_pipeline(TfidfVectorizer(), LogisticRegression())
    fitted = SelectiveClassifier(inner, random_state=3).fit(texts, labels, groups=groups)
    assert fitted.classes_.tolist() == ["ham", "rare", "spam"]
    assert fitted.classifier_.classes_.tolist() == ["ham", "spam"]
    answers = fitted.predict(texts)
    assert {*answers} <= {"ham", "spam", "defer"}
    assert fitted.predict_proba(texts)[:, 1].max() < 1e-6
    assert (answers == labels)[labels != "rare"].mean() > 0.9


def test_a_fitted_classifier_may_know_more_classes_than_the_labels_but_not_fewer():
    frozen = FrozenEstimator(LogisticRegression().fit(INPUTS[:1000], LABELS[:1000]))
    some = 1000 + np.flatnonzero(LABELS[1000:] != 1)
    with pytest.warns(UserWarning, match="no calibration case is of the class 1"):
        fitted = SelectiveClassifier(frozen, max_error=0.2).fit(INPUTS[some], LABELS[some])
    assert fitted.predict_proba(INPUTS[:9]).shape == (9, 3)
    with pytest.raises(DataError, match="does not know the class 7; correct y"):
        fitted.fit(INPUTS[some], np.where(LABELS[some], LABELS[some], 7))


def test_the_error_is_given_once():
    both = SelectiveClassifier(LogisticRegression(), max_error=0.02, deferral=Deferral())
    with pytest.raises(UsageError, match="`max_error` is that of `deferral`; give one alone"):
        both.fit(INPUTS, LABELS)
