"""`answer="finest"`: a class, its superclass, or none, against loops over cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from policies import certify
from scipy import stats

from misgiving import Deferral
from misgiving.deferral.bounds import upper_bound
from misgiving.deferral.fit_policy import calibration_cases, with_finer
from misgiving.deferral.sentences import certificate_sentences
from misgiving.deferral.targets import Targets
from misgiving.errors import UsageError
from misgiving.evaluation.evaluate import evaluate
from misgiving.predictions.record import Predictions
from misgiving.report.evaluation import write_report

CLASSES = ("NV", "BKL", "MEL", "BCC", "SCC", "OTHER")
SUPERCLASSES = {"malignant": ["MEL", "SCC", "BCC"], "benign": ["BKL", "NV"], "rest": ["OTHER"]}
SUPERCLASS_OF = {name: key for key, names in SUPERCLASSES.items() for name in names}
PAIR = np.array([1, 0, 3, 4, 2, 5])  # with which each class is often confused


def outputs(count, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(len(CLASSES), size=count)
    sharpness = random.uniform(0.5, 4.5, size=(count, 1))
    signal = sharpness * (
        np.eye(6)[labels] + random.uniform(0, 0.9, (count, 1)) * np.eye(6)[PAIR[labels]]
    )
    return random.normal(size=(count, 6)) + signal, labels


def images(count, seed):
    return Predictions.of(outputs(count, seed), classes=CLASSES)


TUNING, CALIBRATION, NEW = images(400, 1), images(1200, 3), images(1500, 5)


def fitted(calibration=CALIBRATION, **parameters):
    parameters = {"max_error": 0.1, "superclasses": SUPERCLASSES, "answer": "finest"} | parameters
    return Deferral(max_ood_false_alarms=None, **parameters).fit(TUNING, calibration)


@pytest.fixture(scope="module")
def deferral():
    return fitted()


@pytest.fixture(scope="module")
def decided(deferral):
    return deferral.decide(NEW)


def test_each_answer_has_its_level_and_its_probability(deferral, decided):
    certificate, counts = deferral.certificate_, {"class": 0, "superclass": 0, "deferred": 0}
    for decision in decided:
        key = SUPERCLASS_OF[decision.predicted_class]
        members = sum(decision.probabilities[name] for name in SUPERCLASSES[key])
        of_class = decision.probabilities[decision.predicted_class]
        is_class = decision.answer == decision.predicted_class
        assert decision.answer in (key, decision.predicted_class)
        assert decision.error_probability == pytest.approx(1 - (of_class if is_class else members))
        assert decision.probability == pytest.approx(1 - decision.error_probability)
        assert sum(decision.probabilities.values()) == pytest.approx(1)
        assert of_class == max(decision.probabilities[name] for name in SUPERCLASSES[key])
        reached = decision.acceptance_score >= certificate.accept_threshold
        assert (decision.decision == "accept") == (reached and members >= 0.5)
        if is_class:
            assert decision.decision == "accept"
            assert 1 - of_class <= 1 / (1 + math.exp(certificate.finer.accept_threshold)) + 1e-9
            assert "of its class: probability of error" in decision.reason
        level = "class" if is_class else "superclass"
        counts[level if decision.decision == "accept" else "deferred"] += 1
    assert min(counts.values()) > 50


def test_a_class_is_answered_only_where_its_superclass_is(deferral, decided):
    lowest = deferral.calibration_.log_odds_at(np.array([deferral.certificate_.accept_threshold]))
    assert deferral.certificate_.finer.accept_threshold >= lowest[0]
    finite = np.isfinite(decided.class_score)
    of_superclass = deferral.calibration_.log_odds_at(decided.acceptance_score)
    assert (decided.class_score[finite] <= of_superclass[finite] + 1e-9).all()
    single = decided.predicted == CLASSES.index("OTHER")
    assert np.allclose(decided.class_score[single & finite], of_superclass[single & finite])


def test_the_certificate_counts_both_levels(deferral):
    certificate = deferral.certificate_
    counts = {"class": [0, 0], "superclass": [0, 0], "all": [0, 0]}
    for decision, label in zip(deferral.decide(CALIBRATION), CALIBRATION.labels, strict=True):
        if decision.decision == "accept":
            level = "class" if decision.answer == decision.predicted_class else "superclass"
            other = SUPERCLASS_OF[decision.predicted_class] != SUPERCLASS_OF[CLASSES[label]]
            wrong = {"class": decision.predicted_class != CLASSES[label], "superclass": other}
            for name, is_wrong in ((level, wrong[level]), ("all", other)):
                counts[name][0] += 1
                counts[name][1] += is_wrong
    assert [certificate.finer.accepted, certificate.finer.wrong] == counts["class"]
    assert [certificate.coarse.accepted, certificate.coarse.wrong] == counts["superclass"]
    assert [certificate.accepted, certificate.wrong] == counts["all"]
    least = float(upper_bound(certificate.coarse.wrong, certificate.coarse.accepted, level=0.05))
    assert least < certificate.coarse.bound < 1


def test_each_limit_has_half_of_the_level(deferral):
    alone = fitted(answer="superclass", confidence=0.975).certificate_
    assert alone.accept_threshold == deferral.certificate_.accept_threshold
    _, _, of_classes = calibration_cases(deferral.policy_, CALIBRATION)
    targets = Targets(max_error=0.1, confidence=0.975, max_ood_false_alarms=None)
    can_be_class = of_classes[np.isfinite(of_classes.scores)]
    of_class = certify(can_be_class, can_be_class, targets, classes=CLASSES)
    assert of_class.accept_threshold == deferral.certificate_.finer.accept_threshold


def test_classes_are_answered_from_no_looser_threshold_than_superclasses(deferral):
    policy, high = deferral.policy_, 4.0
    cases, _, of_classes = calibration_cases(policy, CALIBRATION)
    stricter = replace(policy.certificate, accept_threshold=high)
    finer = with_finer(stricter, cases, of_classes, policy.calibration).finer
    lowest = policy.calibration.log_odds_at(np.array([high]))[0]
    assert policy.certificate.finer.accept_threshold < lowest <= finer.accept_threshold < math.inf


@pytest.mark.usefixtures("as_in_use")
def test_both_limits_hold_with_half_of_the_level_each():
    """Calibration sets are drawn again; scores are those of one tuning set."""
    policy, (logits, labels) = fitted(), outputs(30_000, 9)
    decided = policy.decide(Predictions.of((logits, labels), classes=CLASSES))
    wrong_class, wrong = decided.predicted != labels, decided.wrong(labels)
    missed, answered, draws = np.zeros(2), 0, 40
    for seed in range(draws):
        rows = np.random.default_rng(seed).integers(30_000, size=400)
        drawn = Predictions.of((logits[rows], labels[rows]), classes=CLASSES)
        certificate = fitted(drawn).certificate_
        reached = decided.acceptable & (decided.acceptance_score >= certificate.accept_threshold)
        as_class = reached & (decided.class_score >= certificate.finer.accept_threshold)
        answered += certificate.finer.accepted > 0
        missed[0] += reached.any() and wrong[reached].mean() > 0.1
        missed[1] += as_class.any() and wrong_class[as_class].mean() > 0.1
    assert answered > draws / 2
    assert missed.max() <= stats.binom.ppf(1 - 1e-4, draws, 0.025)


def test_more_is_answered_than_by_classes_alone(decided):
    alone = fitted(superclasses=None, answer="class").decide(NEW)
    assert (decided.decisions == "accept").mean() > (alone.decisions == "accept").mean() + 0.05


def test_a_policy_is_saved_stated_and_reported(tmp_path, deferral, decided):
    deferral.save(tmp_path / "policy")
    assert Deferral.load(tmp_path / "policy").decide(NEW) == decided
    text = " ".join(certificate_sentences(deferral, brief=True))
    assert f"As a class: {deferral.certificate_.finer.accepted} of the" in text
    evaluation = evaluate(NEW, deferral)
    page = write_report(evaluation, tmp_path / "report.html").read_text()
    assert "of the images are given a class" in page
    as_class = np.array([x.answer == x.predicted_class for x in decided])
    assert evaluation.decided["as_class"].value == pytest.approx(as_class.mean())
    wrong = (decided.predicted != NEW.labels)[as_class]
    assert evaluation.decided["error_as_class"].value == pytest.approx(wrong.mean())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"guarantee": "average"}, "needs the confident guarantee"),
        ({"class_max_miss": {"malignant": 0.1}}, "`answer` must be given with `max_error` alone"),
        ({"for_each": "predicted_class"}, "`answer` must be given with `max_error` alone"),
        ({"superclasses": None}, "`superclasses` must be"),
    ],
)
def test_what_cannot_go_with_it_is_refused(parameters, message):
    with pytest.raises(UsageError, match=message):
        fitted(**parameters)


def test_costs_cannot_be_weighed_at_two_levels():
    with pytest.raises(UsageError, match="`rule` must be most_probable"):
        fitted(costs={"malignant": 3.0}, rule="costs")


def test_a_class_may_be_limited_by_its_error_probability():
    strict = replace(fitted(max_error_probability=0.05))
    strict.fit(TUNING, CALIBRATION)
    as_class = [x for x in strict.decide(NEW) if x.answer == x.predicted_class]
    assert as_class
    assert max(x.error_probability for x in as_class) <= 0.05


def test_no_target_is_suggested_that_cannot_go_with_it():
    """Half of the malignant cases are labelled benign, so that many of these are missed."""
    labels = CALIBRATION.labels.copy()
    malignant = np.flatnonzero(np.isin(labels, [2, 3, 4]))
    labels[malignant[::2]] = 0
    certificate = fitted(replace(CALIBRATION, labels=labels), max_error=0.5).certificate_
    assert certificate.failing_classes
    assert {each.limit for each in certificate.class_errors} == {None}
