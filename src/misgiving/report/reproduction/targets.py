"""Target error rates: certified or not, the accepted share, and the error among the accepted."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from misgiving.evaluation.evaluate import POLICY_SET
from misgiving.metrics.selective import BY_GROUPS, BY_IMAGES
from misgiving.report.frames import distinct, models_of, select
from misgiving.report.reproduction.run import Quantity, Run, main_model

POLICY = "policy/"
MAIN_TARGET = 0.1  # the target of the first sentence


class TargetStatus(StrEnum):
    """The error among the accepted against its target; only a whole interval decides."""

    MET = "met"
    MISSED = "missed"
    INCONCLUSIVE = "inconclusive"
    NO_INTERVAL = "no_interval"
    NOTHING_ACCEPTED = "nothing_accepted"


@dataclass(frozen=True)
class Target:
    """The policies of one model for one target error rate.

    Attributes:
        policies: The metrics of each trial.
        intervals: Over trials, by metric.
    """

    model: str
    target: float
    policies: tuple[Mapping[str, float], ...]
    intervals: Mapping[str, Any]

    def values(self, metric: str, *, certified: bool | None = None) -> list[float]:
        """A metric in the trials that have it; all, or where the target was certified or not."""
        return [
            policy[metric]
            for policy in self.policies
            if metric in policy and certified in (None, policy.get("attained") == 1)
        ]

    @property
    def certified(self) -> int:
        """The number of trials in which the target could be certified."""
        return len(self.values("attained", certified=True))

    @property
    def error(self) -> str:
        """The metric that was certified: the error for one image of each group."""
        return BY_GROUPS if self.values(BY_GROUPS) else BY_IMAGES

    @property
    def errors(self) -> list[float]:
        """The error among the accepted of each trial in which some were accepted."""
        return self.values(self.error, certified=True)

    @property
    def smallest(self) -> list[float]:
        """The smallest certifiable error of each trial in which this target was not certified."""
        return self.values("smallest_certifiable_error", certified=False)

    @property
    def met(self) -> int:
        """The trials in which the error among the accepted is at most the target."""
        return sum(error <= self.target for error in self.errors)

    @property
    def status(self) -> TargetStatus:
        """Compare the error among the accepted with its target."""
        if not self.errors:
            return TargetStatus.NOTHING_ACCEPTED
        row = self.intervals.get(self.error)
        if row is None or row.lower is None or row.upper is None:
            return TargetStatus.NO_INTERVAL
        if row.upper <= self.target:
            return TargetStatus.MET
        return TargetStatus.MISSED if row.lower > self.target else TargetStatus.INCONCLUSIVE


def targets_of(run: Run) -> list[Target]:
    """Every target of every model, the strictest first."""
    rows = run.rows(experiment="generalization", dataset=POLICY_SET)
    rows = rows[rows["detector"].str.startswith(POLICY)]
    targets = []
    for model in models_of(rows):
        own = select(rows, model=model)
        detectors = distinct(own["detector"])
        for detector in sorted(detectors, key=lambda name: float(name.removeprefix(POLICY))):
            table = select(own, detector=detector).pivot(
                index="trial", columns="metric", values="value"
            )
            intervals = {
                metric: run.interval(
                    Quantity("generalization", POLICY_SET, detector, metric), model
                )
                for metric in table
            }
            policies = tuple(row.dropna().to_dict() for _, row in table.iterrows())
            target = float(detector.removeprefix(POLICY))
            targets.append(Target(model, target, policies, intervals))
    return targets


def main_target(targets: list[Target]) -> Target:
    """The target of the first sentence: the proposed model's, of at most one error in ten."""
    model = main_model([target.model for target in targets])
    own = [target for target in targets if target.model == model]
    return min(own, key=lambda target: abs(target.target - MAIN_TARGET))
