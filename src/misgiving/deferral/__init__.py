"""Accept, defer or call foreign, with a guarantee that holds for a finite number of cases."""

from misgiving.deferral.bounds import Interval
from misgiving.deferral.calibration import Attainable, Calibration, ClassOutcome, calibrate
from misgiving.deferral.cases import Cases, Promises, one_per_group, rates_by_class
from misgiving.deferral.decisions import Decision
from misgiving.deferral.drift import DriftMonitor, DriftTest
from misgiving.deferral.evidence import Evidence, Setting
from misgiving.deferral.policy import DeferralPolicy
from misgiving.deferral.prevalence import PrevalenceOutcome

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
    "Promises",
    "Setting",
    "calibrate",
    "one_per_group",
    "rates_by_class",
]
