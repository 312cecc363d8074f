"""Tables of answers and confidences, without outputs for each class."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from misgiving import Deferral
from misgiving.errors import DataError
from misgiving.predictions.record import Predictions
from tests.strategies import generators

CLASSES = ("no", "unsure", "yes")


def answers(seed=0, count=600, *, slope=0.5, offset=-0.5):
    """Answers that are right with a probability that their confidences do not have."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    confidences = random.beta(4, 1, size=count).clip(0.34, 0.999)
    right = random.random(count) < expit(offset + slope * logit(confidences))
    predicted = np.where(right, labels, (labels + 1 + random.integers(2, size=count)) % 3)
    names = np.array(CLASSES)
    return {
        "prediction": names[predicted],
        "confidence": confidences,
        "label": names[labels],
        "id": [f"{seed}-{row}" for row in range(count)],
    }


@given(generators(), st.integers(2, 30), st.integers(2, 6))
def test_the_answer_is_the_prediction_and_the_others_share_what_is_left(random, count, classes):
    names = [f"class {number}" for number in range(classes)]
    columns = {
        "prediction": [names[x] for x in random.integers(classes, size=count)],
        "confidence": random.random(count),
    }
    predictions = Predictions.of(columns, classes=names)
    assert predictions.classes == tuple(names)
    assert [names[choice] for choice in predictions.choices] == columns["prediction"]
    probabilities, rows = predictions.probabilities, np.arange(count)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    least = np.maximum(columns["confidence"], 1 / classes)
    np.testing.assert_allclose(probabilities[rows, predictions.choices], least, rtol=1e-5)
    probabilities[rows, predictions.choices] = np.nan
    others = np.nanmax(probabilities, axis=1) - np.nanmin(probabilities, axis=1)
    np.testing.assert_allclose(others, 0, atol=1e-12)


def test_only_the_scale_of_the_confidence_is_fitted():
    deferral = Deferral(max_error=0.35).fit(
        Predictions.of(answers(1, 2000)), Predictions.of(answers(2, 2000))
    )
    columns = answers(3, 4000)
    decisions = deferral.decide(columns)
    assert [deferral.classes_[x] for x in decisions.predicted] == columns["prediction"].tolist()
    order = np.argsort(columns["confidence"])
    assert (np.diff(decisions.error_probability[order]) <= 0).all()
    expected = 1 - expit(-0.5 + 0.5 * logit(columns["confidence"]))
    assert np.abs(decisions.error_probability - expected).mean() < 0.04
    accepted = decisions.decisions == "accept"
    assert 0.1 < accepted.mean() < 1
    wrong = columns["prediction"] != columns["label"]
    assert wrong[accepted].mean() < 0.36
    deferred = next(each for each in decisions if each.decision == "defer")
    assert "second opinion" not in deferred.reason


def test_a_table_that_was_written_and_the_policy_of_a_file_are_the_same(tmp_path):
    predictions = Predictions.of(answers(1))
    predictions.write(tmp_path / "table.csv")
    again = Predictions.read(tmp_path / "table.csv")
    assert (again.kind, again.classes) == ("confidence", CLASSES)
    np.testing.assert_allclose(again.logits, predictions.logits, rtol=1e-5)
    deferral = Deferral(max_error=0.4).fit(predictions, Predictions.of(answers(2)))
    deferral.save(tmp_path / "policy")
    new = answers(3, 5)  # which may name fewer classes
    read = Deferral.load(tmp_path / "policy").decide(new)
    assert list(read) == list(deferral.decide(new))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"confidence": [0.5, 95.0]}, "row 2, column confidence: 95 is not from 0 to 1"),
        ({"confidence": [0.5, np.nan]}, "row 2, column confidence: nan is not"),
        ({"prediction": ["yes", ""], "label": ["no", "no"]}, "row 2, column prediction: is empty"),
        ({"prediction": ["yes", "yes"], "label": ["yes", ""]}, "give two or more"),
    ],
)
def test_what_is_no_answer_with_a_confidence_is_refused(changed, message):
    columns = {"prediction": ["yes", "no"], "confidence": [0.5, 0.9], **changed}
    with pytest.raises(DataError, match=message):
        Predictions.of(columns)


@pytest.mark.parametrize("rule", [{"rule": "balanced"}, {"costs": {"yes": 2.0}, "rule": "costs"}])
def test_what_needs_a_probability_for_each_class_says_so(rule):
    with pytest.raises(DataError, match="need a probability for each class"):
        Deferral(**rule).fit(Predictions.of(answers(1)), Predictions.of(answers(2)))


def test_a_column_of_this_name_beside_outputs_is_metadata():
    table = {"logits": 9 * np.eye(2), "label": [0, 1], "confidence": ["high", "low"]}
    assert Predictions.of(table).metadata == {"confidence": ("high", "low")}
