"""The audits of a policy, which its sample and the blind answers tell, also after the policy."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import takewhile
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, Field
from sqlalchemy import func, insert, select

from misgiving.deferral.audit import ALARM_LEVEL, anytime_upper_bound, audit_state
from misgiving.deferral.audit import Outcome as AuditOutcome
from misgiving.deferral.drift import FALSE_ALARMS
from misgiving.deferral.policy import Policy
from misgiving.errors import Parameter, UsageError
from misgiving.report.rendering import lines
from misgiving.serve.case import (
    CASES,
    CASES_PER_DRAW,
    DELETED,
    RESUMPTIONS,
    Case,
    Moment,
    blind_answers,
    standing,
    uniform,
    zulu,
)
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

HIDDEN = (
    *("audited", "wrong", "unconfirmed", "later", "estimate", "upper", "upper_if_right"),
    *("third_readers", "e_value", "summary", "repeated", "repeated_wrong", "large_groups"),
)
"""Fields of an audit that readers do not see."""


SHORTEST = 1e-9  # days
STEPS = files("misgiving.report").joinpath("templates/next_steps.md").read_text(encoding="utf-8")
NEXT_STEPS = [step.removeprefix("- ") for step in STEPS.splitlines()]
"""After an alarm; the documentation has the same text."""


class Audit(BaseModel):
    """Evidence from the audited answers, in the order of the cases, valid at any time.

    It is null for the key of a reviewer, whom it would tell which blind cases are accepted.
    """

    policy_fingerprint: str
    share: float = Field(description="Of the cases that are audited.")
    since: Moment
    target: float
    among: Literal["accepted", "all"] = Field(description="Images of which it limits the errors.")
    accepted: int = Field(description="Accepted answers since then, without open blind cases.")
    audited: int | None = Field(description="Answers that were audited.")
    wrong: int | None = Field(description="Errors that a second blind reader confirmed.")
    unconfirmed: int | None = Field(description="Disagreements that nobody has confirmed yet.")
    overdue: int = Field(description="Blind cases of all kinds that wait for too long.")
    later: int | None = Field(description="Answers that count when older cases are answered, too.")
    estimate: float | None = Field(description="Share of confirmed errors.")
    upper: float | None = Field(description="Counts what is unconfirmed or overdue as wrong.")
    upper_if_right: float | None = Field(description="The same if what is unconfirmed is right.")
    third_readers: int | None = Field(
        description="Cases, of all kinds, that two readers cannot settle: they need a third one."
    )
    repeated: int | None = Field(
        description="Answers that were read and count here alone: to a copy of an image, or beyond "
        "the first 20 cases of a group, which is drawn anew for each 20."
    )
    repeated_wrong: int | None = Field(description="Confirmed errors among these.")
    large_groups: dict[str, int] | None = Field(
        description="Groups with more than 20 cases, rather devices than patients; the 20 largest."
    )
    e_value: float | None = Field(description="Evidence for more errors than the target.")
    alarm: bool = Field(description="Never in shadow, where nobody is told to accept.")
    alarm_since: Moment | None = Field(description="Time of the answer that raised the alarm.")
    after_alarm: Literal["warn", "defer"]
    resumed_at: Moment | None = Field(
        description="Time at which an alarm was lifted; cases since then can raise another."
    )
    reason: str | None = Field(description="Reason for that.")
    next_steps: Sequence[str] = Field(description="After an alarm.")
    summary: Sequence[str] | None = Field(default=None, description="Sentences on all of this.")
    false_alarms: float = Field(default=ALARM_LEVEL, description="In the life of the policy.")
    with_drift: float = ALARM_LEVEL + FALSE_ALARMS


def audit_terms(policy: Policy) -> dict[str, Any]:
    """Target and images of the audits of a policy, which the store keeps for later policies."""
    targets = policy.certificate.targets
    target = targets.max_error or targets.max_silent_error or policy.certificate.highest_error
    return {"target": target, "among": "all" if targets.max_error is None else "accepted"}


class Shadow(NamedTuple):
    """In place of a row of `AUDITS`: every case is audited, and read blind at a random place.

    Attributes:
        policy_fingerprint: None: no policy decides.
        since: Time of the first case.
        target: By which the answers would be judged; None: no policy.
        among: As in `Audit`.
        share: Of the cases that are audited.
    """

    policy_fingerprint: str | None
    since: str
    target: float | None = None
    among: str | None = None
    share: float = 1.0

    @property
    def secret(self) -> str:
        """By which a part of the sample is drawn; all of it is read, so that anyone may know."""
        return self.policy_fingerprint or ""

    def draw(self, case: Case) -> Case:
        """Have a new case read blind."""
        flags = {"audited": True, "blind": True, "position": random.random()}
        return case.model_copy(update=flags)


def audit_of(store: Store, policy: Policy | None, settings: ServiceSettings) -> Any:
    """The row of the audits of a policy, or their shadow; None: it never had any.

    Raises:
        UsageError: A share is asked for, and there is no policy or it has another share.
    """
    fingerprint = None if policy is None else policy.fingerprint
    terms = {} if policy is None else audit_terms(policy)
    if settings.shadow:
        since = store.shadows().get(fingerprint) or zulu(datetime.now(UTC))
        return Shadow(fingerprint, since, **terms)
    if fingerprint is None:
        if settings.audit_share:
            raise UsageError(Parameter("audit_share"), " requires a model with a policy")
        return None
    return store.audit(fingerprint, settings.audit_share, **terms)


class Answers(NamedTuple):
    """The audited answers of a policy, in the order of the cases, before the first open one.

    Attributes:
        outcomes: Of the answers.
        answered: Time of the last blind answer to each case.
        received: Time of each case.
        later: Answers that count when older cases are answered, too.
        repeated: Judgements of answers that are no new unit of the audits.
        third_readers: Cases, of all kinds, that two readers cannot settle.
    """

    outcomes: list[AuditOutcome]
    answered: list[datetime]
    received: list[datetime]
    later: int
    repeated: list[str | None]
    third_readers: int


def audited_answers(store: Store, row: Any, settings: ServiceSettings) -> Answers:
    """The answers that an audit counts, by its row of the store."""
    late = zulu(datetime.now(UTC) - timedelta(days=settings.audit_days))
    answers, groups = store.blind_reviews(), set[str | None]()
    outcomes, times, received = list[AuditOutcome | None](), list[datetime](), list[datetime]()
    repeated = list[str | None]()
    for case in store.audit_rows(row.policy_fingerprint, shadow=isinstance(row, Shadow)):
        given = answers.get(case.id, [])
        answer = case.standing if case.id is None else standing(given)
        if not case.audited:
            repeated.append(answer)
            continue
        is_repeated = case.group is not None and case.group in groups
        if is_repeated or not (case.decision == "accept" or row.among == "all"):
            continue  # answers of one group are not independent
        groups.add(case.group)
        outcomes.append(_outcome(case.decision, answer, is_late=case.received < late))
        answered = given[-1].reviewed_at if given else None
        times.append(answered or datetime.fromisoformat(case.answered or case.received))
        received.append(datetime.fromisoformat(case.received))
    counted = [outcome for outcome in takewhile(bool, outcomes) if outcome]
    later = sum(outcome is not None for outcome in outcomes) - len(counted)
    return Answers(
        outcomes=counted,
        answered=times[: len(counted)],
        received=received[: len(counted)],
        later=later,
        repeated=repeated,
        third_readers=sum(
            len(blind_answers(given)) >= 2 and standing(given) == "unconfirmed"
            for given in answers.values()
        ),
    )


def count_audits(store: Store, row: Any, settings: ServiceSettings) -> Audit:
    """The state of the audits of one policy, by its row of the store."""
    late = datetime.now(UTC) - timedelta(days=settings.audit_days)
    shadow = isinstance(row, Shadow)
    answers = audited_answers(store, row, settings)
    state = audit_state(answers.outcomes, target=row.target)
    resumed = last_resumption(store, row.policy_fingerprint)
    resumed_at = resumed and datetime.fromisoformat(resumed.resumed_at)
    since_then = [
        n for n, time in enumerate(answers.received) if resumed_at is None or time > resumed_at
    ]
    renewed = audit_state([answers.outcomes[n] for n in since_then], target=row.target)
    alarm = None if shadow or not renewed.alarm_at else since_then[renewed.alarm_at - 1]
    counts = state._asdict() | {"overdue": store.open_blind(zulu(late))}
    counted = len(answers.outcomes)
    audit = Audit(
        **(counts | {"e_value": renewed.e_value}),
        upper_if_right=float(anytime_upper_bound(state.wrong + state.overdue, counted)),
        third_readers=answers.third_readers,
        policy_fingerprint=row.policy_fingerprint,
        share=row.share,
        since=row.since,
        target=row.target,
        among=row.among,
        accepted=_accepted(store, row, shadow=shadow),
        later=answers.later,
        repeated=len(answers.repeated),
        repeated_wrong=answers.repeated.count("wrong"),
        large_groups=_large_groups(store, row.policy_fingerprint),
        alarm=alarm is not None,
        alarm_since=None if alarm is None else max(answers.answered[: alarm + 1]),
        after_alarm=settings.after_alarm,
        resumed_at=resumed_at,
        reason=resumed and resumed.reason,
        next_steps=NEXT_STEPS,
    )
    return audit.model_copy(update={"summary": lines("audits.txt", "summary", audit)})


def first_alarm(store: Store, row: Any, settings: ServiceSettings) -> datetime | None:
    """Time of the first alarm of a policy, also if it was lifted; in shadow there is none."""
    if isinstance(row, Shadow) or row.target is None:
        return None
    answers = audited_answers(store, row, settings)
    number = audit_state(answers.outcomes, target=row.target).alarm_at
    return max(answers.answered[:number]) if number else None


def _accepted(store: Store, row: Any, *, shadow: bool) -> int:
    """Number of accepted answers since then, or in shadow of those that would have been.

    It leaves out open blind cases.
    """
    is_live = CASES.c.listed_decision == "accept"  # where no case in shadow is accepted
    in_shadow = CASES.c.shadow & ~CASES.c.blind & (CASES.c.decision == "accept")
    stored = select(func.count()).where(
        CASES.c.policy_fingerprint == row.policy_fingerprint,
        in_shadow if shadow else is_live,
        CASES.c.place.is_(None),
        CASES.c.received >= row.since,
    )
    deleted = select(func.count()).where(
        DELETED.c.policy_fingerprint == row.policy_fingerprint,
        DELETED.c.decision == "accept",
        DELETED.c.shadow.is_(shadow),
        DELETED.c.received >= row.since[:10],
        ~DELETED.c.audited | (DELETED.c.standing != "unconfirmed"),
    )
    with store.begin() as connection:
        return sum(connection.scalar(count) or 0 for count in (stored, deleted))


def _large_groups(store: Store, policy_fingerprint: str | None) -> dict[str, int]:
    number = func.max(CASES.c.repeat) + 1
    of_policy = CASES.c.policy_fingerprint == policy_fingerprint
    large = select(CASES.c.group, number).where(of_policy, CASES.c.repeat >= CASES_PER_DRAW)
    large = large.group_by(CASES.c.group).order_by(number.desc(), CASES.c.group).limit(20)
    with store.begin() as connection:
        return {row[0]: row[1] for row in connection.execute(large)}


def last_resumption(store: Store, policy_fingerprint: str) -> Any:
    """The row of the last time that an alarm of a policy was lifted."""
    own = RESUMPTIONS.c.policy_fingerprint == policy_fingerprint
    last = select(RESUMPTIONS).where(own).order_by(RESUMPTIONS.c.number.desc()).limit(1)
    with store.begin() as connection:
        return connection.execute(last).first()


def resume(store: Store, reason: str) -> list[Audit]:
    """Lift the alarms of all policies.

    Returns:
        The audits until then.

    Raises:
        UsageError: There is no alarm, or no reason.
    """
    if not reason.strip():
        raise UsageError(Parameter("reason"), " is empty; say what caused the alarm")
    at_once = ServiceSettings(audit_days=SHORTEST)  # no answer is waited for
    rows = [row for row in store.audits().values() if row.target is not None]
    audits = [audit for row in rows if (audit := count_audits(store, row, at_once)).alarm]
    if not audits:
        raise UsageError("no audit of this store has an alarm, so that there is nothing to lift")
    values = {"reason": reason.strip(), "resumed_at": zulu(datetime.now(UTC))}
    policies = ({"policy_fingerprint": audit.policy_fingerprint} for audit in audits)
    with store.begin(writing=True) as connection:
        connection.execute(insert(RESUMPTIONS), [policy | values for policy in policies])
    return audits


def _outcome(decision: str, answer: str | None, *, is_late: bool) -> AuditOutcome | None:
    if decision != "accept":  # no wrong answer was accepted
        return "right"
    if answer is None:
        return "overdue" if is_late else None
    return "right" if answer == "right" else "wrong" if answer == "wrong" else "unconfirmed"


def audit_sample(store: Store, rows: Sequence[Any]) -> list[Case]:
    """The audit sample of policies, whatever was decided, oldest first.

    It ends before the first open case: those that are settled sooner are a selection. Of several
    policies, a group counts by the draw of the policy that saw it first, if this drew it with the
    lowest of their shares: so all groups have the same chance.
    """
    shares = {row.policy_fingerprint: row for row in rows}
    cases = [
        case
        for case in store.audited([*shares])
        if case.shadow == isinstance(shares[case.policy_fingerprint], Shadow)
    ]
    if len(rows) > 1:
        lowest, first = min(row.share for row in rows), _first_policies(store, [*shares])
        cases = [
            case
            for case in cases
            if (policy := first[case.group or case.pixels]) == case.policy_fingerprint
            and uniform(shares[policy].secret, unit_of(case)) < lowest
        ]
    answers = store.blind_reviews()

    def is_closed(case: Case) -> bool:  # one reader who agrees is enough, though some are two
        return not case.blind or standing(answers.get(case.id, [])) not in (None, "unconfirmed")

    return [case.model_copy(update={"blind": False}) for case in takewhile(is_closed, cases)]


def _first_policies(store: Store, policies: Sequence[str | None]) -> dict[str, str | None]:
    """The policy that first saw each group, or image without one, of some audit samples."""
    unit = func.coalesce(CASES.c.group, CASES.c.pixels)
    sample = CASES.c.audited & CASES.c.policy_fingerprint.in_(policies)
    is_first = select(func.min(CASES.c.id)).where(CASES.c.place.is_(None)).group_by(unit)
    is_first = is_first.where(unit.in_(select(unit).where(sample)))
    first = select(unit, CASES.c.policy_fingerprint).where(CASES.c.id.in_(is_first))
    with store.begin() as connection:
        return {row[0]: row[1] for row in connection.execute(first)}


def unit_of(case: Case) -> str:
    """The text by which a case is drawn."""
    return f"group {case.group}" if case.group else f"image {case.pixels}"
