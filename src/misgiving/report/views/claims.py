"""Tables of the primary claims and of their harms."""

from collections.abc import Mapping
from statistics import fmean

from misgiving.report.findings import MINUS, Effect, effect_of, scale_of
from misgiving.report.findings.claims import (
    ENOUGH_TRIALS,
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
from misgiving.report.wording import count
from misgiving.results.schema import ResultInterval

NAMED_HARMS = 3  # beside a verdict; the table of harms has all


def verdict_table(inputs: ReportInputs) -> Table:
    """The primary claims: the effect with its t-interval over trials, the verdict and the harms."""
    columns = [*heads("Claim"), *heads(numbers=("Effect",)), *heads("Verdict", "Harms")]
    found = enumerate(verdicts(inputs).values(), start=1)
    return Table([columns], [[_claim(index, verdict) for index, verdict in found]])


def _claim(index: int, verdict: Verdict) -> list[Cell]:
    claim, scale = verdict.claim, verdict.claim.scale
    effect, interval = "not measured", ""
    if verdict.differences:
        effect = f"{scale.number(fmean(verdict.differences.values()), sign='+')}{scale.unit}"
        interval = f"by trial: {scale.by_trial(verdict.differences)}"
    evidence = "" if verdict.interval is None else p_text(verdict.p_value)
    if len(verdict.differences) < ENOUGH_TRIALS:
        evidence = f"fewer than {ENOUGH_TRIALS} trials"
    lost = [str(of) for of in verdict.divergences if of.diverged]
    found = verdict.interval
    ends = bounds(found.lower, found.upper, scale) if found else "(no interval)"
    return [
        Cell(
            f"{index}. {claim.statement}",
            (f"{claim.quantity}, {MODEL} {MINUS} {claim.baseline}",),
            scope="row",
        ),
        Cell(effect, (ends, interval) if interval else (), kind="number effect"),
        Cell(verdict.status, (evidence, *lost), kind=f"verdict {verdict.status}"),
        _harms(verdict),
    ]


def _harms(verdict: Verdict) -> Cell:
    """The number of harms of a claim, and the worst of them."""
    judged, harms = count(len(verdict.judged), "metrics"), verdict.harms
    if not verdict.judged:
        return Cell("not judged: no metric has an interval")
    if not harms:
        return Cell(f"none in {judged}")
    named = [f"{harm_name(row)} {scale_of(row.metric).brief(row)}" for row in harms[:NAMED_HARMS]]
    more = len(harms) - len(named)
    return Cell(
        f"worse in {len(harms)} of {judged}",
        (*named, f"and {more} more" if more else ""),
        kind="harm",
    )


def harms_table(inputs: ReportInputs) -> Table | None:
    """Every metric in which a claim's model is worse than its baseline, the worst first."""
    claims_of: dict[ResultInterval, list[str]] = {}
    for index, verdict in enumerate(verdicts(inputs).values(), start=1):
        for row in verdict.harms:
            claims_of.setdefault(row, []).append(str(index))
    if not claims_of:
        return None
    numbers = ("Difference", "95 % interval, bootstrap", "t-interval over trials")
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
