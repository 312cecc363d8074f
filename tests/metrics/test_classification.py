import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score, roc_auc_score
from strategies import DISTINCT, columns

from misgiving.metrics.classification import (
    accuracy,
    balanced_accuracy,
    krippendorff_alpha,
    macro_auroc,
    sensitivities,
)

CLASSES = 4
answers = columns(CLASSES, CLASSES)


def measures(labels, predicted):
    return (
        accuracy(labels, predicted),
        balanced_accuracy(labels, predicted, num_classes=CLASSES),
    )


@given(answers)
def test_measures_are_shares_of_the_confusion_matrix_and_1_only_if_all_are_correct(drawn):
    confusions = confusion_matrix(*drawn, labels=range(CLASSES))
    rows = [row / row.sum() for row in confusions if row.any()]
    recalls = [row[k] for k, row in zip(sorted(set(drawn[0].tolist())), rows, strict=True)]
    assert confusions.sum() == len(drawn[0])
    expected = (np.trace(confusions) / confusions.sum(), np.mean(recalls))
    assert measures(*drawn) == pytest.approx(expected)
    is_right = bool((drawn[0] == drawn[1]).all())
    assert [value == 1 for value in measures(*drawn)] == [is_right, is_right]


@given(answers, st.integers(0, CLASSES - 1), st.integers(2, 4))
def test_class_frequencies_do_not_change_the_sensitivities(drawn, often, times):
    copies = np.where(drawn[0] == often, times, 1)
    repeated = (np.repeat(column, copies) for column in drawn)
    np.testing.assert_allclose(
        sensitivities(*repeated, num_classes=CLASSES), sensitivities(*drawn, num_classes=CLASSES)
    )


@given(columns(CLASSES, *[DISTINCT] * CLASSES))
def test_negating_every_probability_mirrors_the_macro_auroc(drawn):
    labels, *values = drawn
    ranks = np.stack(values, axis=1) / 1.0
    expected = 1 - macro_auroc(labels, ranks)
    assert macro_auroc(labels, -ranks) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_sensitivities_and_macro_auroc_are_those_of_scikit_learn(seed):
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(CLASSES, size=(2, 60))
    probabilities = random.integers(1, 6, size=(60, CLASSES)) / 10  # few values: many ties
    expected = recall_score(labels, predicted, average=None)
    np.testing.assert_allclose(sensitivities(labels, predicted, num_classes=CLASSES), expected)
    for present in (CLASSES, CLASSES - 1):  # a class that does not occur is left out
        labels = np.where(labels >= present, 0, labels)
        areas = [roc_auc_score(labels == k, probabilities[:, k]) for k in range(present)]
        assert macro_auroc(labels, probabilities) == pytest.approx(np.mean(areas), abs=1e-12)


def test_macro_auroc_of_a_single_class_is_undefined():
    assert np.isnan(macro_auroc(np.array([1, 1]), np.array([[0.1, 0.9], [0.6, 0.4]])))


def test_agreement_is_that_of_the_example_of_krippendorff_and_of_repeated_images():
    # "Computing Krippendorff's alpha-reliability" (2011), example C: four observers, twelve units
    rows = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    answers = np.array([[int(cell) if cell != "." else -1 for cell in row] for row in rows])
    assert krippendorff_alpha(answers, 6) == pytest.approx(0.743, abs=5e-4)
    weights = np.array([np.ones(12), np.arange(12) % 3])
    repeated = np.repeat(answers, weights[1].astype(int), axis=1)
    expected = [krippendorff_alpha(each, 6) for each in (answers, repeated)]
    np.testing.assert_allclose(krippendorff_alpha(answers, 6, weights), expected)
    assert np.isnan(krippendorff_alpha(answers[:1], 6))
