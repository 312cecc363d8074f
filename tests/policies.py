"""Cases, outputs of models, and policies with any certificate, made without fitting."""

from dataclasses import replace

import numpy as np

from misgiving import Deferral
from misgiving.calibration.apply import Calibrator, Scaling
from misgiving.deferral.cases import Cases, Identities
from misgiving.deferral.certificate import certify_thresholds
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.settings import DecisionRule
from misgiving.deferral.thresholds import ScoredCases
from misgiving.scores.detectors import FittedDetectors

CLASSES = ("NV", "MEL", "BCC")
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
    wrong = random.random(count) < 0.6 * (1 - scores) ** 2
    return ScoredCases(
        scores=scores,
        ood_scores=random.normal(size=count),
        error_probabilities=0.6 * (1 - scores) ** 2,
        predicted=(labels + wrong) % len(CLASSES),
        labels=labels,
        acceptable=np.ones(count, dtype=bool),
    )


def certificate_of(targets, tuning=300, cases=400):
    """The certificate of so many drawn cases."""
    return certify_thresholds(
        drawn_cases(tuning, 1), drawn_cases(cases, 2), targets, classes=CLASSES
    )


def calibrator(score="msp"):
    """The error probability is one minus the score."""
    return Calibrator(
        scaling=Scaling(temperature=1.0, biases=(0.0, 0.0)),
        weights=None,
        combination=None,
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


def decided(deferral, score, ood_score, error, *, scaled=0, **given):
    """The decision on one image with these numbers, by its policy."""
    acceptable = np.array([not error > deferral.rule_.max_error_probability])
    outcomes, p_values = deferral.certificate_.decide(
        np.array([score]), np.array([ood_score]), acceptable
    )
    threshold = deferral.certificate_.accept_threshold
    limit = None if threshold is None else deferral.calibration_.error(np.array([threshold]))
    decisions = replace(
        Decisions.without_policy(deferral.classes_[:2], np.zeros((1, 2))),
        decisions=outcomes,
        most_probable=np.array([scaled]),
        probabilities=np.array([[1 - error, error]]),
        error_probability=np.array([error]),
        ood_p_value=p_values,
        acceptance_score=np.array([score]),
        ood_score=np.array([ood_score]),
        certificate=deferral.certificate_,
        rule=deferral.rule_,
        error_limit=None if limit is None else float(limit[0]),
        knows_training=deferral.compares_with_training,
    )
    return replace(decisions, **given)[0]
