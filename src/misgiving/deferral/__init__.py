"""Deferral policies with finite-sample guarantees: accept, defer or call out-of-distribution."""

from misgiving.deferral.bounds import BinomialInterval
from misgiving.deferral.certificate import CertifiableError, Certificate, ClassOutcome
from misgiving.deferral.drift import DriftMonitor, DriftTest
from misgiving.deferral.label_shift import LabelShiftOutcome
from misgiving.deferral.operating_points import CalibrationScores, OperatingPoint
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.scored_cases import ScoredCases, one_per_group
from misgiving.deferral.targets import Targets, rates_by_class
from misgiving.deferral.thresholds import certify_thresholds

__all__ = [
    "BinomialInterval",
    "CalibrationScores",
    "CertifiableError",
    "Certificate",
    "ClassOutcome",
    "DeferralPolicy",
    "DriftMonitor",
    "DriftTest",
    "LabelShiftOutcome",
    "OperatingPoint",
    "ScoredCases",
    "Targets",
    "certify_thresholds",
    "one_per_group",
    "rates_by_class",
]
