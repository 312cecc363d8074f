"""Accept, defer or call OOD, with a guarantee that holds for a finite number of cases."""

from misgiving.deferral.bounds import Interval
from misgiving.deferral.cases import Cases, Targets, one_per_group, rates_by_class
from misgiving.deferral.decisions import Decision
from misgiving.deferral.drift import DriftMonitor, DriftTest
from misgiving.deferral.operating_points import Evidence, Setting
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.prevalence import PrevalenceOutcome
from misgiving.deferral.thresholds import Attainable, Calibration, ClassOutcome, calibrate

__all__ = [
    "Attainable",
    "Calibration",
    "Cases",
    "ClassOutcome",
    "Decision",
    "DeferralPolicy",
    "DriftMonitor",
    "DriftTest",
    "Evidence",
    "Interval",
    "PrevalenceOutcome",
    "Setting",
    "Targets",
    "calibrate",
    "one_per_group",
    "rates_by_class",
]
