"""Policies with any certificate, made without fitting."""

import numpy as np

from misgiving import Deferral
from misgiving.calibration.apply import Calibrator, Isotonic, Scaling
from misgiving.deferral.decisions import Decisions
from misgiving.deferral.fit import Cases, Identities
from misgiving.deferral.settings import DecisionRule
from misgiving.scores.detectors import FittedDetectors

IMAGE = Identities(contents=("",), ids=("1" * 16,), outputs=("",), groups=("",))


def calibrator(score="msp", **changes):
    """The error probability is one minus the score."""
    fields = {
        "scaling": Scaling(temperature=1.0, biases=(0.0, 0.0)),
        "weights": None,
        "score": score,
        "combination": None,
        "error_estimator": None,
        "error": Isotonic(knots=(0.0, 1.0), values=(1.0, 0.0)),
        "loss": None,
        "tried": {},
        "samples": 400,
    }
    return Calibrator(**fields | changes)


def policy_with(certificate, *, score="msp", ood_detector="knn", rule=None, unit="group", **cases):
    """A policy that decides by this certificate."""
    targets, rule = certificate.targets, rule or DecisionRule()
    deferral = Deferral(
        **{**vars(targets), "class_max_miss": dict(targets.class_max_miss) or None},
        **{**vars(rule), "costs": dict(rule.costs) or None},
        ood_detector=ood_detector,
    )
    deferral.certificate_, deferral.rule_ = certificate, rule
    deferral.calibration_, deferral.detectors_ = calibrator(score), FittedDetectors.none()
    deferral.ood_detector_, deferral.model_, deferral.unit_ = ood_detector, "f" * 64, unit
    deferral.cases_ = Cases(tuning=IMAGE, calibration=IMAGE, **cases)
    return deferral


def decided(deferral, score, ood_score, error, *, probabilities=None, named=0, scaled=0, **given):
    """The decision on one image with these numbers, by its policy."""
    acceptable = np.array([not error > deferral.rule_.max_error_probability])
    outcomes, p_values = deferral.certificate_.decide(
        np.array([score]), np.array([ood_score]), acceptable
    )
    shown = probabilities or (1 - error, error)
    threshold = deferral.certificate_.accept_threshold
    fields = {
        "classes": deferral.classes_[: len(shown)],
        "decisions": outcomes,
        "predicted": np.array([named]),
        "most_probable": np.array([scaled]),
        "probabilities": np.array([shown], dtype=float),
        "error_probability": np.array([error]),
        "ood_p_value": p_values,
        "acceptance_score": np.array([score]),
        "ood_score": np.array([ood_score]),
        "expected_loss": np.array([np.nan]),
        "predicted_loss": np.array([np.nan]),
        "certificate": deferral.certificate_,
        "rule": deferral.rule_,
        "error_limit": None
        if threshold is None
        else float(deferral.calibration_.error(np.array([threshold]))[0]),
        "knows_training": deferral.compares_with_training,
    }
    return Decisions(**fields | given)[0]
