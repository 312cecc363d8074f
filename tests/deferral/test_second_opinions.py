from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from misgiving import Deferral, Predictions
from misgiving.errors import DataError
from misgiving.evaluation.evaluate import evaluate
from misgiving.evaluation.measures import POLICY_SET

CLASSES = ["a", "b", "c"]


def predictions(name, count, *, seed):
    """A model, and another that knows more."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    logits, others = (
        random.normal(size=(count, 3)) + told * np.eye(3)[labels] for told in (2.0, 3.0)
    )
    ids = [f"{name}-{number}" for number in range(count)]
    columns = {"logits": logits, "label": labels, "id": ids, "classes": CLASSES}
    other = Predictions.of({**columns, "logits": others, "model": ["0123456789abcdef"] * count})
    return Predictions.of(columns), Predictions.of(columns).with_opinion(other)


PLAIN, JOINT = (
    [predictions(name, 600, seed=seed)[at] for seed, name in enumerate(["tune", "cal"])]
    for at in (0, 1)
)
NEW = predictions("new", 3000, seed=5)


@pytest.fixture(scope="module")
def policy():
    return Deferral(max_error=0.1).fit(*JOINT)


def test_a_second_opinion_accepts_more_and_never_changes_the_answer(policy):
    alone = Deferral(max_error=0.1).fit(*PLAIN).decide(NEW[0])
    decided, labels = policy.decide(NEW[1]), NEW[1].labels
    np.testing.assert_array_equal(decided.predicted, alone.predicted)
    accepted = decided.decisions == "accept"
    assert accepted.mean() > (alone.decisions == "accept").mean() + 0.1
    assert (decided.predicted != labels)[accepted].mean() <= 0.1
    assert policy.calibration_.opinion_worth > 0.02
    measured = {(row.dataset, row.detector) for row in evaluate(NEW[1], policy).measurements}
    assert (POLICY_SET, policy.calibration_.score) in measured


@pytest.mark.parametrize("highest", [0.5, 1.0])
def test_where_the_opinion_prefers_another_class_the_answer_is_deferred_for_that(highest):
    policy = Deferral(max_error=0.3, max_error_probability=highest).fit(*JOINT)
    preferred = 0
    for decision in policy.decide(NEW[1]):
        most = max(decision.probabilities, key=decision.probabilities.get)
        differs = most != decision.predicted_class
        assert (f"; the second opinion prefers {most}" in decision.reason) == differs
        assert not differs or decision.decision == "defer"
        preferred += differs
    assert preferred > 100


def test_a_saved_policy_decides_the_same_with_the_opinion_and_not_without(policy, tmp_path):
    policy.save(tmp_path / "policy")
    again = Deferral.load(tmp_path / "policy")
    assert again.decide(NEW[1]) == policy.decide(NEW[1])
    renamed = replace(NEW[1], opinions={"another": NEW[1].opinions["0123456789ab"]})
    for lacking in (NEW[0], renamed):
        with pytest.raises(DataError, match="needs the second opinion of 0123456789ab"):
            again.decide(lacking)
    with pytest.raises(DataError, match="opinions of 0123456789ab, and the calibration set of"):
        Deferral().fit(JOINT[0], PLAIN[1])


def test_an_image_on_which_the_other_model_fails_is_deferred(policy):
    few = NEW[1].select(np.arange(5))
    logits = np.log(few.opinions["0123456789ab"])
    logits[2] = np.nan
    decided = policy.decide(replace(few, opinions={"0123456789ab": softmax(logits, axis=1)}))
    assert "no finite score" in decided[2].reason
    assert decided.decisions[2] == "defer"
    assert np.isfinite(np.delete(decided.acceptance_score, 2)).all()
    whole = policy.decide(few)  # the model's own answer stands
    np.testing.assert_array_equal(decided.predicted, whole.predicted)
    np.testing.assert_array_equal(decided.ood_score, whole.ood_score)
