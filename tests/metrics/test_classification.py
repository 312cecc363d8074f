import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from misgiving.errors import UsageError
from misgiving.metrics.classification import (
    accuracy,
    balanced_accuracy,
    macro_auroc,
    sensitivities,
)

CLASSES = 4


def predictions(seed, count=60):
    random = np.random.default_rng(seed)
    labels = random.integers(CLASSES, size=count)
    predicted = np.where(random.random(count) < 0.5, labels, random.integers(CLASSES, size=count))
    probabilities = random.integers(1, 6, size=(count, CLASSES)) / 10  # few values: many ties
    return labels, predicted, probabilities


MEASURES = {
    "sensitivities": lambda labels, predicted, _, weights=None: sensitivities(
        labels, predicted, num_classes=CLASSES, weights=weights
    ),
    "accuracy": lambda labels, predicted, _, weights=None: accuracy(
        labels, predicted, weights=weights
    ),
    "balanced_accuracy": lambda labels, predicted, _, weights=None: balanced_accuracy(
        labels, predicted, num_classes=CLASSES, weights=weights
    ),
    "macro_auroc": lambda labels, _, probabilities, weights=None: macro_auroc(
        labels, probabilities, weights=weights
    ),
}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_counts_as_that_many_repetitions(name, seed):
    arrays = predictions(seed, count=12)  # so few that classes go missing in some replicates
    weights = np.random.default_rng(seed).poisson(1, size=(3, 4, 12))
    weighted = MEASURES[name](*arrays, weights=weights)
    for row in np.ndindex(3, 4):
        repeated = MEASURES[name](*(np.repeat(values, weights[row], axis=0) for values in arrays))
        np.testing.assert_allclose(weighted[row], repeated, atol=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_without_any_weight_a_measure_is_undefined(name):
    weights = np.zeros((2, 60))
    assert np.isnan(MEASURES[name](*predictions(0), weights=weights)).all()


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_auroc"])
def test_without_weights_a_measure_is_a_plain_float(name):
    assert type(MEASURES[name](*predictions(0))) is float


@pytest.mark.parametrize("seed", range(3))
def test_sensitivities_are_the_recalls_of_scikit_learn(seed):
    labels, predicted, _ = predictions(seed)
    expected = recall_score(labels, predicted, average=None)
    np.testing.assert_allclose(sensitivities(labels, predicted, num_classes=CLASSES), expected)


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_agrees_with_scikit_learn(seed):
    labels, predicted, _ = predictions(seed)
    assert accuracy(labels, predicted) == pytest.approx(accuracy_score(labels, predicted))


@pytest.mark.parametrize("seed", range(3))
def test_balanced_accuracy_agrees_with_scikit_learn(seed):
    labels, predicted, _ = predictions(seed)
    expected = balanced_accuracy_score(labels, predicted)
    assert balanced_accuracy(labels, predicted, num_classes=CLASSES) == pytest.approx(expected)


def test_balanced_accuracy_leaves_out_classes_that_do_not_occur():
    labels, predicted = np.array([0, 0, 1]), np.array([0, 3, 1])
    assert balanced_accuracy(labels, predicted, num_classes=CLASSES) == 0.75


@pytest.mark.parametrize("seed", range(3))
def test_macro_auroc_is_the_mean_of_one_against_the_rest(seed):
    labels, _, probabilities = predictions(seed)
    expected = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(CLASSES)]
    assert macro_auroc(labels, probabilities) == pytest.approx(np.mean(expected), abs=1e-12)


def test_macro_auroc_leaves_out_classes_that_do_not_occur():
    labels, _, probabilities = predictions(0)
    labels = np.where(labels == 3, 0, labels)
    expected = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(3)]
    assert macro_auroc(labels, probabilities) == pytest.approx(np.mean(expected), abs=1e-12)


def test_macro_auroc_of_a_single_class_is_undefined():
    assert np.isnan(macro_auroc(np.array([1, 1]), np.array([[0.1, 0.9], [0.6, 0.4]])))


@pytest.mark.parametrize("unknown", [-1, 4])
def test_a_class_outside_the_range_is_named_with_its_position(unknown):
    labels = np.array([0, unknown])
    with pytest.raises(UsageError, match=f"predicted has class {unknown} at position 1"):
        sensitivities(np.array([0, 1]), labels, num_classes=CLASSES)


def test_a_label_without_a_column_of_probabilities_is_refused():
    with pytest.raises(UsageError, match="labels has class 2"):
        macro_auroc(np.array([0, 2]), np.ones((2, 2)))


@pytest.mark.parametrize("measure", [accuracy, sensitivities, balanced_accuracy])
@pytest.mark.usefixtures("as_in_use")
def test_lengths_that_differ_name_the_argument(measure):
    options = {} if measure is accuracy else {"num_classes": CLASSES}
    with pytest.raises(UsageError, match="predicted has length 3 but labels has length 2"):
        measure(np.array([0, 1]), np.array([0, 1, 1]), **options)


@pytest.mark.usefixtures("as_in_use")
def test_weights_of_another_length_are_named():
    with pytest.raises(UsageError, match="weights has shape"):
        accuracy(np.array([0, 1]), np.array([0, 1]), weights=np.ones((5, 3)))


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_negative_and_non_finite_weights_are_refused(weight):
    with pytest.raises(UsageError, match="weights has a negative or non-finite value"):
        accuracy(np.array([0, 1]), np.array([0, 1]), weights=np.array([1.0, weight]))


def test_no_samples_are_refused():
    empty = np.array([], dtype=int)
    with pytest.raises(UsageError, match="labels is empty"):
        accuracy(empty, empty)


def test_probabilities_that_are_not_finite_are_named_with_their_position():
    with pytest.raises(UsageError, match="probabilities is not finite at position 1"):
        macro_auroc(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, np.nan]]))
