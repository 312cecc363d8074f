"""Tables of the primary claims and of their harms."""

from collections.abc import Mapping

from misgiving.report.findings import MINUS, Effect, effect_of, scale_of
from misgiving.report.findings.claims import (
    MODEL,
    Verdict,
    harm_name,
    p_text,
    verdicts,
    worst_first,
)
from misgiving.report.inputs import ReportInputs, differences_by_trial, distinct
from misgiving.report.published import title
from misgiving.report.views import ABSENT, Cell, Rows, Table, bounds, heads, number
from misgiving.results.schema import ResultInterval


def claims_table(inputs: ReportInputs) -> Table:
    """The primary claims: effect, t-interval, adjusted p-value, values by trial, verdict, harm."""
    numbers = ("Difference", "95 % t-interval over trials", "p, Holm-adjusted")
    columns = [
        *heads("", "Claim", "Quantity"),
        *heads(numbers=numbers),
        *heads("By trial", "Verdict"),
    ]
    found = enumerate(verdicts(inputs).values(), start=1)
    return Table([columns], [[_claim(index, verdict) for index, verdict in found]])


def _claim(index: int, verdict: Verdict) -> list[Cell]:
    claim, interval, scale = verdict.claim, verdict.interval, verdict.claim.scale
    numbers = [number(ABSENT)] * 3
    if interval is not None:
        numbers = [
            number(f"{scale.number(interval.mean, sign='+')}{scale.unit}"),
            number(bounds(interval.lower, interval.upper, scale)),
            number(p_text(verdict.p_value).removeprefix("p ").removeprefix("= ")),
        ]
    return [
        Cell(str(index), scope="row"),
        Cell(claim.statement),
        Cell(claim.quantity, (f"{MODEL} {MINUS} {claim.baseline}",)),
        *numbers,
        Cell(scale.by_trial(verdict.differences) if verdict.differences else ABSENT),
        Cell(verdict.status, (_worst(verdict),)),
    ]


def _worst(verdict: Verdict) -> str:
    """The worst harm of a claim and the number of others; empty without one."""
    if not (harms := verdict.harms):
        return ""
    worst, more = harms[0], len(harms) - 1
    size = scale_of(worst.metric).brief(worst)
    return f"but worse: {harm_name(worst)} {size}{f', and {more} more' if more else ''}"


def harms_table(inputs: ReportInputs) -> Table | None:
    """Every metric in which a claim's model is worse than its baseline, the worst first."""
    claims_of: dict[ResultInterval, list[str]] = {}
    for index, verdict in enumerate(verdicts(inputs).values(), start=1):
        for row in verdict.harms:
            claims_of.setdefault(row, []).append(str(index))
    if not claims_of:
        return None
    numbers = ("Difference", "95 % interval, given these trained models", "t-interval over trials")
    columns = [*heads("Metric", "Claims"), *heads(numbers=numbers), *heads("By trial")]
    body: Rows = [_harm(inputs, row, claims_of) for row in worst_first(claims_of)]
    return Table([columns], [body])


def _harm(
    inputs: ReportInputs, row: ResultInterval, claims_of: Mapping[ResultInterval, list[str]]
) -> list[Cell]:
    scale, keys = scale_of(row.metric), ("experiment", "dataset", "detector", "metric")
    wanted = {key: getattr(row, key) for key in keys}
    by_trial = differences_by_trial(inputs.results, row.model, row.baseline, wanted)
    return [
        Cell(harm_name(row), (f"{row.model} {MINUS} {row.baseline}",), scope="row"),
        Cell(", ".join(claims_of[row])),
        number(f"{scale.number(row.estimate, sign='+')}{scale.unit}"),
        number(bounds(row.lower, row.upper, scale)),
        number(bounds(row.trial_lower, row.trial_upper, scale)),
        Cell(scale.by_trial(by_trial) if by_trial else ABSENT),
    ]


def unjudged_sets(inputs: ReportInputs) -> list[str]:
    """The sets without any interval, where no harm could be seen."""
    rows = [row for verdict in verdicts(inputs).values() for row in verdict.compared]
    judged = distinct((row for row in rows if effect_of(row) is not Effect.UNKNOWN), "dataset")
    return [title(name) for name in distinct(rows, "dataset") if name not in judged]
