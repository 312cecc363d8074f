"""Cases, outputs of models, and policies with any certificate, made without fitting."""

from dataclasses import replace

import numpy as np

from misgiving import Deferral
from misgiving.calibration.apply import Calibrator, Scaling
from misgiving.deferral.certificate import Certificate
from misgiving.deferral.certify import certify_thresholds
from misgiving.deferral.decisions import unscored
from misgiving.deferral.guarantees import GUARANTEES
from misgiving.deferral.identities import Cases, Identities
from misgiving.deferral.policy import Policy
from misgiving.deferral.targets import DecisionRule
from misgiving.deferral.thresholds import ScoredCases
from misgiving.scores.detectors import FittedDetectors
from misgiving.scores.outputs import Outputs

CLASSES = ("NV", "MEL", "BCC")
WORST = 0.6  # risk at the score 0
IMAGE = Identities(contents=("",), ids=("1" * 16,), outputs=("",), groups=("",))


def outputs(count, seed=0, signal=3.0):
    """Logits of three classes, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return random.normal(size=(count, 3)) + signal * np.eye(3)[labels], labels


def drawn_cases(count, seed=0):
    """ScoredCases whose errors become rarer with the score; the OOD score is its own."""
    random = np.random.default_rng(seed)
    scores, labels = random.random(count), random.integers(len(CLASSES), size=count)
    wrong, ood_scores = random.random(count) < risk_at(scores), random.normal(size=count)
    return cases_of(scores, ood_scores, wrong, labels=labels)


def risk_at(scores):
    """Probability that a drawn case with this score is wrong."""
    return WORST * (1 - scores) ** 2


def cases_of(scores, ood_scores, wrong, *, labels):
    """Acceptable cases, of which some are taken for the next class."""
    return ScoredCases(
        scores=scores,
        ood_scores=ood_scores,
        error_probabilities=risk_at(scores),
        predicted=(labels + wrong) % len(CLASSES),
        labels=labels,
        acceptable=np.ones(len(scores), dtype=bool),
    )


def with_errors(cases, wrong):
    """The same cases, of which others are wrong."""
    return replace(cases, predicted=(cases.labels + wrong) % len(CLASSES))


def certify(tuning, calibration, targets, guarantee="confident", classes=CLASSES, values=()):
    """The certificate of these cases."""
    guarantee = GUARANTEES[guarantee]
    blank = Certificate(
        targets=targets, guarantee=guarantee.name, classes=classes, tuning_cases=len(tuning)
    )
    return certify_thresholds(blank, tuning, calibration, guarantee, values)


def certificate_of(targets, tuning=300, cases=400, guarantee="confident"):
    """The certificate of so many drawn cases."""
    return certify(drawn_cases(tuning, 1), drawn_cases(cases, 2), targets, guarantee)


def calibrator(score="msp"):
    """Accepts by this score."""
    return Calibrator(
        scaling=Scaling(temperature=1.0, biases=(0.0, 0.0, 0.0)),
        weights=None,
        error_estimator=None,
        score=score,
        loss=None,
        tried={},
        samples=400,
    )


def policy_with(certificate, *, score="msp", ood_detector="knn", rule=None, unit="group", **cases):
    """A fitted `Deferral` that decides by this certificate."""
    targets, rule = certificate.targets, rule or DecisionRule()
    deferral = Deferral(
        **{
            **vars(targets),
            "class_max_miss": dict(targets.class_max_miss) or None,
            "superclasses": dict(targets.superclasses) or None,
        },
        **{**vars(rule), "costs": dict(rule.costs) or None},
        guarantee=certificate.guarantee,
        ood_detector=ood_detector,
    )
    deferral.policy_ = Policy(
        certificate=certificate,
        calibration=calibrator(score),
        detectors=FittedDetectors(),
        rule=rule,
        ood_detector=ood_detector,
        model="f" * 64,
        unit=unit,
        kind="logits",
        seed=0,
    )
    deferral.cases_ = Cases(tuning=IMAGE, calibration=IMAGE, **cases)
    return deferral


def write(deferral, folder):
    """Write the file of a policy, which need not have been fitted."""
    deferral.write(folder, deferral.policy_.used_detectors)


def scored(certificate, scores, ood_scores, acceptable, **columns):
    """Images of which nothing else is known."""
    return replace(
        unscored(Outputs(logits=np.zeros((len(scores), len(CLASSES))))),
        acceptance_score=scores,
        ood_score=ood_scores,
        ood_p_value=certificate.ood_p_values(ood_scores),
        acceptable=acceptable,
        **columns,
    )


def outcomes(certificate, scores, ood_scores, acceptable, threshold=None):
    """The decisions on images of which nothing else is known."""
    policy, images = policy_with(certificate).policy_, (scores, ood_scores, acceptable)
    return policy.decide(scored(certificate, *images), threshold=threshold).decisions


def decided(deferral, score, ood_score, error, *, predicted=0, probabilities=None):
    """The decision on one image with these numbers, by its policy.

    Without probabilities, the other classes share what the predicted class has not.
    """
    policy, classes = deferral.policy_, len(deferral.classes_)
    if probabilities is None:
        probabilities = np.full(classes, error / (classes - 1))
        probabilities[predicted] = 1 - error
    rows, chosen, errors = np.array([probabilities]), np.array([predicted]), np.array([error])
    image = scored(
        policy.certificate,
        np.array([score]),
        np.array([ood_score]),
        policy.rule.mark_acceptable(rows, chosen, errors),
        predicted=chosen,
        probabilities=rows,
        error_probability=errors,
    )
    return policy.decide(image, threshold=policy.certificate.accept_threshold)[0]
