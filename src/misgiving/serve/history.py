"""Charts of the operator's page over time."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from math import log
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy import func

from misgiving.deferral.audit import anytime_upper_bound
from misgiving.deferral.decisions import Outcome
from misgiving.report.rendering import environment
from misgiving.serve.audits import Audit, audited_answers
from misgiving.serve.case import CASES, DELETED, Review, blind_answers, standing
from misgiving.serve.monitor import Drift, Monitor
from misgiving.serve.service import Service
from misgiving.serve.store import Store

Point = tuple[datetime, float]
NAMES: dict[Outcome, str] = {"accept": "accepted", "defer": "deferred", "ood": "unfamiliar"}
MOST_POINTS = 200  # of a line
MOST_DAYS = 60  # above which weeks are shown


class Curve(NamedTuple):
    """A quantity over time; an upper bound is rounded up."""

    name: str
    points: Sequence[Point]
    is_bound: bool = False


class Chart(NamedTuple):
    """Lines over the time of the page; the values are shares, up to `top`."""

    title: str
    note: str
    lines: Sequence[Curve]

    @property
    def top(self) -> float:
        """The highest value of the axis: a share that can be written shortly."""
        highest = max((value for line in self.lines for _, value in line.points), default=1.0)
        return next((top for top in (0.05, 0.1, 0.2, 0.5, 1.0) if highest <= top), highest)


def monitor_page(service: Service) -> str:
    """The operator's page."""
    monitor, days = service.monitor, _days(service.store)
    audit, wrong = None if monitor is None else monitor.audit(), service.found_wrong.answers()
    drift = None if monitor is None else monitor.drift
    charts = [_decisions(days)]
    if audit is not None:
        charts.append(_audit(service, audit))
    if monitor is not None:
        charts += [_readers(service), _drift(monitor)]
    charts = [chart for chart in charts if any(line.points for line in chart.lines)]
    times = [time for chart in charts for line in chart.lines for time, _ in line.points]
    page = environment("misgiving.serve").get_template("monitor.html")
    return page.render(
        charts=charts,
        first=min(times, default=None),
        last=max(times, default=None),
        marks=_alarms(audit, drift),
        audit=audit,
        wrong=wrong if sum(wrong.counts.values()) else None,
        drift=drift,
        versions=_versions(days),
        shadow=service.settings.shadow,
    )


def _days(store: Store) -> list[Any]:
    """Numbers of cases by day (UTC), decision, model and policy; deleted ones have no model."""
    of_model = {CASES: [CASES.c.model_fingerprint], DELETED: []}
    rows = list[Any]()
    with store.begin() as connection:
        for table, model in of_model.items():
            day = func.substr(table.c.received, 1, 10).label("day")
            keys = [table.c.decision, table.c.policy_fingerprint, *model]
            none = [] if model else [sa.null().label("model_fingerprint")]
            counted = sa.select(day, *keys, *none, func.count().label("cases"))
            rows += connection.execute(counted.group_by("day", *keys))
    return rows


def _decisions(days: Sequence[Any]) -> Chart:
    in_weeks = len({row.day for row in days}) > MOST_DAYS
    counts = defaultdict[datetime, Counter[str]](Counter)
    for row in days:
        day = _time(row.day)
        counts[day - timedelta(days=day.weekday() * in_weeks)][row.decision] += row.cases
    lines = [
        Curve(name, [(time, counts[time][key] / counts[time].total()) for time in sorted(counts)])
        for key, name in NAMES.items()
    ]
    note = f"Share of the images of a {'week' if in_weeks else 'day'}, as the policy decides."
    return Chart("Decisions", note, lines)


def _audit(service: Service, audit: Audit) -> Chart:
    answers = audited_answers(service.store, service.audits, service.settings)
    times = list(accumulate(answers.answered, max))  # in the order of cases
    outcomes = np.array(answers.outcomes)
    numbers = np.arange(1, len(times) + 1)
    bounds = anytime_upper_bound(np.cumsum(outcomes != "right"), numbers).tolist()
    errors = np.cumsum(outcomes == "wrong") / numbers
    target = [(time, audit.target) for time in times[:1] + times[-1:]]
    lines = [
        Curve("at most (95 % at any time)", _thinned([*zip(times, bounds, strict=True)]), True),
        Curve("found wrong", _thinned([*zip(times, errors.tolist(), strict=True)])),
        Curve("target", target),
    ]
    note = "By blind audits, since the policy began."
    return Chart("Errors of accepted answers", note, lines)


def _readers(service: Service) -> Chart:
    """Agreement of the first two blind readers, and accepted errors among all audited cases."""
    agreed, team = list[tuple[datetime, bool]](), list[tuple[datetime, bool]]()
    answers = service.store.blind_reviews()
    policy, shadow = service.policy_fingerprint or "", service.settings.shadow
    for row in service.store.audit_rows(policy, shadow=shadow):
        given = answers.get(row.id, list[Review]())
        judged = row.standing if row.id is None else standing(given)
        time = given[-1].reviewed_at if given else _time((row.answered or row.received)[:10])
        readers = blind_answers(given)
        if len(readers) > 1:
            agreed.append((time, readers[0].final_class == readers[1].final_class))
        if row.audited and judged in ("right", "wrong"):
            team.append((time, judged == "wrong" and row.decision == "accept"))
    lines = [
        Curve("two readers agree", _running(agreed)),
        Curve("errors of the team", _running(team)),
    ]
    note = "Agreement where two have read; errors that were accepted, if readers are right."
    return Chart("Readers and team", note, lines)


def _drift(monitor: Monitor) -> Chart:
    alarm_at = {test.name: log(test.alarm_at) for test in monitor.drift.tests}
    days = sorted(monitor.evidence.copy().items())
    lines = [
        Curve(name, [(_time(day), min(1.0, max(0.0, log(now[name]) / most))) for day, now in days])
        for name, most in alarm_at.items()
    ]
    return Chart("Drift", "Evidence of each test on its way to the alarm, at 100 %.", lines)


def _alarms(audit: Audit | None, drift: Drift | None) -> list[tuple[str, datetime]]:
    tests = [] if drift is None else drift.tests
    alarms = [(f"drift of {test.name}", test.since) for test in tests if test.since is not None]
    if audit is not None and audit.alarm_since is not None:
        alarms.append(("audits", audit.alarm_since))
    return alarms


def _versions(days: Iterable[Any]) -> list[dict[str, Any]]:
    """Models and policies with their days and numbers of cases, latest first."""
    rows = dict[tuple[str | None, str | None], list[Any]]()
    for row in days:
        rows.setdefault((row.model_fingerprint, row.policy_fingerprint), []).append(row)
    versions = [
        {
            "model": model,
            "policy": policy,
            "first": min(row.day for row in own),
            "last": max(row.day for row in own),
            "cases": sum(row.cases for row in own),
        }
        for (model, policy), own in rows.items()
    ]
    return sorted(versions, key=lambda version: version["last"], reverse=True)


def _running(values: list[tuple[datetime, bool]]) -> list[Point]:
    """The share so far, after each value."""
    values.sort()
    shares = np.cumsum([value for _, value in values]) / np.arange(1, len(values) + 1)
    return _thinned([(time, float(share)) for (time, _), share in zip(values, shares, strict=True)])


def _thinned(points: list[Point]) -> list[Point]:
    step = -(-len(points) // MOST_POINTS) or 1
    return points[::-1][::step][::-1]  # with the last


def _time(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T00:00:00+00:00")
