"""Everything that a user may ask for at once: decided alike wherever, or refused in one line."""

from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from misgiving import Deferral
from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.sentences import certificate_sentences
from misgiving.errors import UsageError
from misgiving.predictions.record import Predictions

CLASSES = ("NV", "BKL", "MEL", "BCC")
GROUPS = {"benign": ["NV", "BKL"], "malignant": ["MEL", "BCC"]}


def images(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(len(CLASSES), size=count)
    sharpness = random.uniform(1, 5, size=(count, 1))
    logits, other = (random.normal(size=(count, 4)) + sharpness * np.eye(4)[labels] for _ in "ab")
    names = dict(zip(CLASSES, range(4), strict=True))
    shares = np.exp(other) / np.exp(other).sum(axis=1, keepdims=True)
    return Predictions.of(
        {
            **{f"logit_{name}": logits[:, at] for name, at in names.items()},
            **{f"probability_{name}@other": shares[:, at] for name, at in names.items()},
            "label": [CLASSES[label] for label in labels],
            "id": [f"{seed}-{row}" for row in range(count)],
            "group": [f"{seed}-{row // 2}" for row in range(count)],
            "site": random.choice(("A", "B", ""), size=count, p=(0.5, 0.4, 0.1)),
        }
    )


TUNING, CALIBRATION, NEW = images(160, 1), images(500, 2), images(160, 3)
asked = st.fixed_dictionaries(
    {
        "max_error": st.sampled_from([None, "auto", 0.1, 0.2]),
        "guarantee": st.sampled_from(["confident", "average"]),
        "answer": st.sampled_from(["class", "superclass", "finest"]),
        "superclasses": st.sampled_from([None, GROUPS, GROUPS]),
        "for_each": st.sampled_from([None, None, "predicted_class", "site"]),
        "class_max_miss": st.sampled_from([None, None, {"MEL": 0.3}, {"malignant": 0.3}]),
        "max_silent_error": st.sampled_from([None, None, 0.1]),
        "max_deferred": st.sampled_from([None, None, 0.5]),
        "review_cost": st.sampled_from([None, None, 0.4]),
        "costs": st.sampled_from([None, None, {"MEL": 5.0}, {"malignant": 5.0}]),
        "max_ood_false_alarms": st.sampled_from([None, 0.1]),
        "ood_detector": st.sampled_from([None, "max_logit"]),
        "simultaneous": st.booleans(),
    }
)


@given(asked)
@settings(max_examples=120, deadline=None)
def test_decisions_are_the_same_in_memory_and_from_the_file_or_are_refused(parameters):
    rule = "costs" if parameters["costs"] else "most_probable"
    deferral = Deferral(**parameters, rule=rule)
    refusal = ""
    try:
        deferral.check_parameters(CLASSES)
    except UsageError as error:
        refusal = str(error)
    if refusal:
        assert len(refusal.splitlines()) == 1
        return
    deferral.fit(TUNING, CALIBRATION)
    certificate, decided = deferral.certificate_, deferral.decide(NEW)
    assert certificate.accepted == certificate.accepted_cases.sum()
    assert certificate_sentences(deferral)
    assert certificate_sentences(deferral, brief=True)
    assert all(each.reason for each in decided)
    with TemporaryDirectory() as folder:
        deferral.save(f"{folder}/policy")
        assert Deferral.load(f"{folder}/policy").decide(NEW) == decided
        _, policy = PolicyFile.read(f"{folder}/policy")  # as a bundle has it
    scored = policy.score(NEW.outputs)
    assert policy.decide(scored, NEW.units, columns=NEW.metadata) == decided
    again = policy.decide(scored, columns=NEW.metadata, threshold=decided.thresholds)
    assert again.decisions.tolist() == decided.decisions.tolist()
