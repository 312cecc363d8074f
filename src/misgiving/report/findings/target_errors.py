"""Target error rates: certified or not, the accepted share, and the error among the accepted."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from misgiving.metrics.selective import BY_GROUPS, BY_IMAGES
from misgiving.report.findings import BOOTSTRAP, POINTS, Effect, effect_of
from misgiving.report.inputs import find, main_model, models_of, select
from misgiving.report.wording import count
from misgiving.results.schema import POLICY_SET, Result, ResultInterval

PREFIX = "policy/"
MAIN_TARGET = 0.1  # the target of the first sentence


class TargetStatus(StrEnum):
    """The error among the accepted against its target; only a whole interval decides."""

    MET = "yes"
    MISSED = "no"
    INCONCLUSIVE = "inconclusive: the interval includes the target"
    NO_INTERVAL = "no interval"
    NOTHING_ACCEPTED = "nothing was accepted"


class TargetResult(NamedTuple):
    """The policies of one model for one target error rate: their metrics, trial by trial."""

    model: str
    target: float
    policies: tuple[Mapping[str, float], ...]

    @property
    def detector(self) -> str:
        """The name of these policies in the tables."""
        return f"{PREFIX}{self.target:g}"

    def values(self, metric: str, *, certified: bool | None = None) -> list[float]:
        """A metric in the trials that have it; all, or where the target was certified or not."""
        return [
            policy[metric]
            for policy in self.policies
            if metric in policy and certified in (None, policy["attained"] == 1)
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


def targets_of(results: Sequence[Result]) -> list[TargetResult]:
    """Every target of every model, the strictest first."""
    rows = [
        row
        for row in select(results, experiment="generalization", dataset=POLICY_SET)
        if row.detector.startswith(PREFIX)
    ]
    targets: dict[tuple[str, float], dict[int, dict[str, float]]] = {}
    for row in sorted(rows, key=lambda row: row.trial):
        of_target = targets.setdefault((row.model, float(row.detector.removeprefix(PREFIX))), {})
        of_target.setdefault(row.trial, {"attained": 0.0})[row.metric] = row.value
    return [
        TargetResult(model, target, tuple(targets[model, target].values()))
        for model in models_of(rows)
        for target in sorted(target for name, target in targets if name == model)
    ]


def main_target(targets: Sequence[TargetResult]) -> TargetResult:
    """The target of the first sentence: the proposed model's, of at most one error in ten."""
    model = main_model([target.model for target in targets])
    own = [target for target in targets if target.model == model]
    return min(own, key=lambda target: abs(target.target - MAIN_TARGET))


def interval_of(
    intervals: Sequence[ResultInterval], target: TargetResult, metric: str
) -> ResultInterval | None:
    """A metric of a target's policies over trials, with its interval."""
    where = {"experiment": "generalization", "dataset": POLICY_SET, "baseline": ""}
    return find(intervals, model=target.model, detector=target.detector, metric=metric, **where)


def target_status(intervals: Sequence[ResultInterval], target: TargetResult) -> TargetStatus:
    """Compare the error among the accepted with its target."""
    if not target.errors:
        return TargetStatus.NOTHING_ACCEPTED
    found = interval_of(intervals, target, target.error)
    if found is None or found.lower is None or found.upper is None:
        return TargetStatus.NO_INTERVAL
    if found.upper <= target.target:
        return TargetStatus.MET
    return TargetStatus.MISSED if found.lower > target.target else TargetStatus.INCONCLUSIVE


def target_sentences(
    intervals: Sequence[ResultInterval], targets: Sequence[TargetResult]
) -> list[str]:
    """The main target in words: certified or not, its coverage and error, and other models."""
    main = main_target(targets)
    sentences = [_accepted(intervals, main)]
    if main.certified:
        sentences.append(_wrong(intervals, main))
    return [*sentences, *_compared(intervals, main)]


def _accepted(intervals: Sequence[ResultInterval], target: TargetResult) -> str:
    trials, certified = len(target.policies), target.certified
    counted = count(trials, "trials")
    smallest = ""
    if target.smallest:
        smallest = f" (smallest certifiable error there: {POINTS.range(target.smallest)} %)"
    if not certified:
        return (
            f"For the {target.model} model, an error of at most {100 * target.target:g} % could "
            f"not be certified in any of {counted}{smallest}, so it would accept nothing."
        )
    refused = f"; in {trials - certified} it could not be certified{smallest}"
    return (
        f"With a target error rate of {100 * target.target:g} %, the {target.model} model would "
        f"accept {_share(intervals, target)} in {certified} of {counted}"
        f"{refused if certified < trials else ''}."
    )


def _share(intervals: Sequence[ResultInterval], target: TargetResult) -> str:
    """The accepted share where the target was certified; its interval is one over all trials."""
    found = interval_of(intervals, target, "coverage")
    if found and target.certified == len(target.policies):
        return f"{POINTS.number(found.estimate)} % of new cases ({POINTS.bounds(found)})"
    shares = POINTS.range(target.values("coverage", certified=True))
    return f"{shares} % of new cases (no interval over these trials alone)"


def _wrong(intervals: Sequence[ResultInterval], target: TargetResult) -> str:
    if not target.errors:
        return "On new cases it then accepted none, so its error is unknown."
    found = interval_of(intervals, target, target.error)
    numbers, bounds = f"{POINTS.range(target.errors)} %", "no interval over these trials alone"
    if found is not None:
        numbers, bounds = f"{POINTS.number(found.estimate)} %", POINTS.bounds(found)
    status = target_status(intervals, target)
    outcome = {
        TargetStatus.MET: "the whole interval meets the target",
        TargetStatus.MISSED: "the whole interval exceeds the target, which was missed",
        TargetStatus.NO_INTERVAL: f"the error meets the target in {met_in(target)}",
    }.get(status, "the interval includes the target")
    return f"Of the new cases that it accepted, {numbers} were wrong ({bounds}): {outcome}."


def met_in(target: TargetResult) -> str:
    """The trials in which the error among the accepted meets the target, as a count."""
    met = sum(error <= target.target for error in target.errors)
    return f"{met} of {len(target.errors)} trials"


def _compared(intervals: Sequence[ResultInterval], target: TargetResult) -> Iterator[str]:
    """Coverage, and the error among the accepted, against every other model."""
    where = {"experiment": "generalization", "dataset": POLICY_SET, "model": target.model}
    rows = select(intervals, detector=target.detector, **where)
    compared = {
        "coverage": ("Cases accepted", "more", "fewer"),
        target.error: ("Error among the accepted", "lower", "higher"),
    }
    for metric, (start, better, worse) in compared.items():
        pairs = [row for row in select(rows, metric=metric) if row.baseline]
        degrees = {Effect.BETTER: better, Effect.WORSE: worse}
        clauses = [
            f"{degrees[effect]} than with {row.baseline}, {POINTS.brief(row)}"
            for row in pairs
            if (effect := effect_of(row)) in degrees
        ]
        others = [row.baseline for row in pairs if effect_of(row) not in degrees]
        clauses += [f"no clear difference from {', '.join(others)}"] if others else []
        if clauses:
            yield f"{start}: {'; '.join(clauses)} ({BOOTSTRAP})."
