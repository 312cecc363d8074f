"""What can be promised of the answers that a policy accepts, and whether the promise was kept."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from misgiving.report.tables.records import (
    Result,
    ResultInterval,
    find,
    main_model,
    models_of,
    select,
)
from misgiving.report.tables.verdicts import POINTS, Verdict, verdict

POLICY_SET = "policy_test"
PREFIX = "policy/"
MAIN_TARGET = 0.1  # the promised error of which the first sentence speaks
COMPARED = {
    "coverage": ("Cases answered", "more", "fewer"),
    "error_among_accepted": ("Error among the answers", "lower", "higher"),
}


class Policy(NamedTuple):
    """One calibrated policy of one trial, measured; `error` is None where nothing was accepted."""

    attained: bool
    coverage: float
    error: float | None
    ood: float | None
    smallest: float | None
    cases: float | None


class Promise(NamedTuple):
    """The policies of one model for one promised error, trial by trial."""

    model: str
    target: float
    policies: tuple[Policy, ...]

    @property
    def detector(self) -> str:
        """The name of these policies in the tables."""
        return f"{PREFIX}{self.target:g}"

    @property
    def given(self) -> list[Policy]:
        """The policies that accept anything, because the promise could be given."""
        return [policy for policy in self.policies if policy.attained]

    @property
    def errors(self) -> list[float]:
        """The error among the accepted of each trial in which some were accepted."""
        return [policy.error for policy in self.given if policy.error is not None]

    @property
    def smallest(self) -> list[float]:
        """What could have been promised instead, in trials where this could not."""
        refused = [policy.smallest for policy in self.policies if not policy.attained]
        return [error for error in refused if error is not None]


def promises_of(results: Sequence[Result]) -> list[Promise]:
    """Every promise of every model, the strictest first."""
    rows = [
        row
        for row in select(results, experiment="generalization", dataset=POLICY_SET)
        if row.detector.startswith(PREFIX)
    ]
    targets = sorted({float(row.detector.removeprefix(PREFIX)) for row in rows})
    found = (
        _promise(select(rows, model=model, detector=f"{PREFIX}{target:g}"), target)
        for model in models_of(rows)
        for target in targets
    )
    return [promise for promise in found if promise]


def _promise(rows: Sequence[Result], target: float) -> Promise | None:
    if not rows:
        return None
    trials = sorted({row.trial for row in rows})
    return Promise(rows[0].model, target, tuple(_policy(select(rows, trial=t)) for t in trials))


def _policy(rows: Sequence[Result]) -> Policy:
    values = {row.metric: row.value for row in rows}
    return Policy(
        attained=values.get("attained") == 1.0,
        coverage=values.get("coverage", 0.0),
        error=values.get("error_among_accepted"),
        ood=values.get("ood_share"),
        smallest=values.get("smallest_certifiable_error"),
        cases=values.get("calibration_cases"),
    )


def main_promise(targets: Sequence[Promise]) -> Promise:
    """The promise that is spoken of first: the proposed model's, of at most one in ten wrong."""
    model = main_model([promise.model for promise in targets])
    own = [promise for promise in targets if promise.model == model]
    return min(own, key=lambda promise: abs(promise.target - MAIN_TARGET))


def interval_of(
    intervals: Sequence[ResultInterval], promise: Promise, metric: str
) -> ResultInterval | None:
    """The value of a promise's policies over trials, with its interval."""
    where = {"experiment": "generalization", "dataset": POLICY_SET, "baseline": ""}
    return find(intervals, model=promise.model, detector=promise.detector, metric=metric, **where)


def kept(intervals: Sequence[ResultInterval], promise: Promise) -> str:
    """Whether the error among the accepted stayed under the promise, as far as can be told."""
    if not promise.errors:
        return "nothing was answered"
    found = interval_of(intervals, promise, "error_among_accepted")
    if found is None or found.lower is None or found.upper is None:
        under = sum(error <= promise.target for error in promise.errors)
        return f"under it in {under} of {len(promise.errors)} trials, no interval"
    if found.upper <= promise.target:
        return "yes"
    if found.lower > promise.target:
        return "no"
    return "cannot be told: the interval holds the promise"


def promise_sentences(intervals: Sequence[ResultInterval], targets: Sequence[Promise]) -> list[str]:
    """The plain answer: what is promised and answered, whether that held, and which model does."""
    main = main_promise(targets)
    said = [_answered(intervals, main)]
    if main.given:
        said.append(_wrong(intervals, main))
    return [*said, *_compared(intervals, main)]


def _answered(intervals: Sequence[ResultInterval], promise: Promise) -> str:
    trials, given = len(promise.policies), len(promise.given)
    left = trials - given
    if not given:
        return (
            f"An error of at most {100 * promise.target:g} % could be promised for the "
            f"{promise.model} model in none of {_trials(trials)}{_could(promise)}: it would "
            "answer no case."
        )
    refused = f"; in {left} no promise could be given{_could(promise)}" if left else ""
    return (
        f"With an error of at most {100 * promise.target:g} % promised, the {promise.model} model "
        f"would answer {_share(intervals, promise)} in {given} of {_trials(trials)}{refused}."
    )


def _share(intervals: Sequence[ResultInterval], promise: Promise) -> str:
    """The answered share where the promise was given; its interval is one over all trials."""
    found = interval_of(intervals, promise, "coverage")
    if found and len(promise.given) == len(promise.policies):
        return f"{POINTS.number(found.estimate)} % of new cases ({POINTS.bounds(found)})"
    shares = _range([policy.coverage for policy in promise.given])
    return f"{shares} % of new cases (no interval over these trials alone)"


def _trials(number: int) -> str:
    return f"{number} trial{'s' * (number != 1)}"


def _could(promise: Promise) -> str:
    """What could have been promised instead; for planning, and no promise itself."""
    if not promise.smallest:
        return ""
    return (
        f" (the smallest that the cases there would have certified: {_range(promise.smallest)} %)"
    )


def _range(values: Sequence[float]) -> str:
    ends = [POINTS.number(end) for end in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _wrong(intervals: Sequence[ResultInterval], promise: Promise) -> str:
    if not promise.errors:
        return "On unseen cases it then answered none, so that its error cannot be told."
    found = interval_of(intervals, promise, "error_among_accepted")
    numbers = f"{_range(promise.errors)} %"
    bounds = "no interval over these trials alone"
    if found is not None:
        numbers, bounds = f"{POINTS.number(found.estimate)} %", POINTS.bounds(found)
    outcomes = {
        "yes": "the whole interval stays within the promise",
        "no": "the whole interval is above the promise, which was not kept",
    }
    outcome = kept(intervals, promise)
    held = outcomes.get(outcome, f"whether the promise held: {outcome}")
    return f"Of the unseen cases that it answered, {numbers} were wrong ({bounds}): {held}."


def _compared(intervals: Sequence[ResultInterval], promise: Promise) -> Iterator[str]:
    """The answered cases, and the error among them, against every other model."""
    where = {"experiment": "generalization", "dataset": POLICY_SET, "model": promise.model}
    rows = select(intervals, detector=promise.detector, **where)
    for metric, words in COMPARED.items():
        pairs = [row for row in select(rows, metric=metric) if row.baseline]
        if pairs:
            yield _against(pairs, *words)


def _against(pairs: Sequence[ResultInterval], start: str, better: str, worse: str) -> str:
    degrees = {Verdict.BETTER: better, Verdict.WORSE: worse}
    told = [
        f"clearly {degrees[outcome]} than with {row.baseline}, {POINTS.difference(row)}"
        for row in pairs
        if (outcome := verdict(row)) in degrees
    ]
    others = [row.baseline for row in pairs if verdict(row) not in degrees]
    tied = [f"not to be told apart from {', '.join(others)}"] if others else []
    return f"{start}: {'; '.join([*told, *tied])}."
