"""Cases, outputs of models, and policies with any certificate, made without fitting."""

from dataclasses import replace

import numpy as np

from misgiving import Deferral
from misgiving.calibration.apply import Calibrator, Scaling
from misgiving.deferral.cases import Cases, Identities
from misgiving.deferral.certificate import certify_thresholds
from misgiving.deferral.policy_file import PolicyFile
from misgiving.deferral.settings import DecisionRule
from misgiving.deferral.thresholds import ScoredCases
from misgiving.scores.detectors import FittedDetectors

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


def certificate_of(targets, tuning=300, cases=400):
    """The certificate of so many drawn cases."""
    return certify_thresholds(
        drawn_cases(tuning, 1), drawn_cases(cases, 2), targets, classes=CLASSES
    )


def calibrator(score="msp"):
    """Accepts by this score."""
    return Calibrator(
        scaling=Scaling(temperature=1.0, biases=(0.0, 0.0)),
        weights=None,
        error_estimator=None,
        score=score,
        loss=None,
        tried={},
        samples=400,
    )


def policy_with(certificate, *, score="msp", ood_detector="knn", rule=None, unit="group", **cases):
    """A policy that decides by this certificate."""
    targets, rule = certificate.targets, rule or DecisionRule()
    deferral = Deferral(
        **{**vars(targets), "class_max_miss": dict(targets.class_max_miss) or None},
        **{**vars(rule), "costs": dict(rule.costs) or None},
        ood_detector=ood_detector,
    )
    deferral.certificate_, deferral.rule_ = certificate, rule
    deferral.calibration_, deferral.detectors_ = calibrator(score), FittedDetectors()
    deferral.ood_detector_, deferral.model_, deferral.unit_ = ood_detector, "f" * 64, unit
    deferral.cases_ = Cases(tuning=IMAGE, calibration=IMAGE, **cases)
    return deferral


def write(deferral, folder):
    """Write the file of a policy, which need not have been fitted."""
    PolicyFile.of(deferral).write(folder, deferral.used_detectors)


def decided(deferral, score, ood_score, error, *, predicted=0, probabilities=None):
    """The decision on one image with these numbers, by its policy.

    Without probabilities, the other classes share what the predicted class has not.
    """
    if probabilities is None:
        probabilities = np.full(len(deferral.classes_), error / (len(deferral.classes_) - 1))
        probabilities[predicted] = 1 - error
    missing, ood_scores = np.full(1, np.nan), np.array([ood_score])
    undecided = deferral.undecided(
        predicted=np.array([predicted]),
        probabilities=np.array([probabilities]),
        error_probability=np.array([error]),
        ood_p_value=deferral.certificate_.ood_p_values(ood_scores),
        acceptance_score=np.array([score]),
        ood_score=ood_scores,
        expected_loss=missing,
        predicted_loss=missing,
    )
    return undecided.by_threshold(deferral.certificate_.accept_threshold)[0]
