"""Blind audits: the draw of the cases, and what the answers of readers say of the accepted ones.

A case is audited if a keyed hash of its group, or else of its content, is below the share: nobody
can predict or repeat the draw. Audited cases are blind, and so are others that were deferred, among
which accepted ones cannot be told.
"""

import hmac
import threading
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Literal

from pydantic import BaseModel, Field

from misgiving.deferral.audit import ALARM_LEVEL, audit_state
from misgiving.deferral.audit import Outcome as Judged
from misgiving.deferral.decisions import Decision, Outcome
from misgiving.deferral.drift import FALSE_ALARMS
from misgiving.deferral.policy import Policy
from misgiving.errors import UsageError
from misgiving.serve.records import (
    Case,
    CaseWithHistory,
    Moment,
    Review,
    classes_against,
    standing,
    zulu,
)
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

EVIDENCE = ("audited", "wrong", "unconfirmed", "later", "estimate", "upper", "e_value")
RECENT = 2000  # cases that tell how many are accepted, and their error probabilities
BLIND_PER_AUDITED = 1.5  # deferred per accepted case, so that chance seldom leaves fewer
VALID_SECONDS = 60  # of a report, unless there is a new review
DEFERRED = "audits found too many errors among accepted answers, so every image is deferred"


class Audit(BaseModel):
    """Evidence from the audited answers, in the order of the cases, valid at any time.

    It is null for the key of a reviewer, whom it would tell which blind cases are accepted.
    """

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
    e_value: float | None = Field(description="Evidence for more errors than the target.")
    alarm: bool
    alarm_since: Moment | None = Field(description="Time of the answer that raised the alarm.")
    after_alarm: Literal["warn", "defer"]
    false_alarms: float = Field(default=ALARM_LEVEL, description="In the life of the policy.")
    with_drift: float = ALARM_LEVEL + FALSE_ALARMS
    found_wrong: list[CaseWithHistory] = Field(
        default=[], description="Accepted, and not blind to who asks: somebody may have acted."
    )


class Audits:
    """The draw of a policy's cases, and the state of its audits, which follows from the store."""

    def __init__(self, store: Store, policy: Policy, settings: ServiceSettings, row: Any) -> None:
        self._store, self._settings, self._row = store, settings, row
        self._fingerprint, targets = policy.fingerprint, policy.certificate.targets
        target = targets.max_error or targets.max_silent_error
        if target is None:
            raise UsageError("`audit_share` requires a policy with a target for errors")
        self._target, self._counts_all = target, targets.max_error is None
        self._accepted, self._errors = deque[bool](maxlen=RECENT), deque[float](maxlen=RECENT)
        after = max(0, store.latest()[0] - RECENT)
        for case in store.decided(self._fingerprint, after=after, limit=RECENT):
            self._notice(case.decision, case.error_probability)
        self._lock = threading.Lock()
        self._wrong: dict[str, list[Review]] = {}  # blind answers by accepted case, latest first
        self._computed: tuple[tuple[int, int], Audit] | None = None
        self.report()

    def decided(self, decision: Decision) -> Decision:
        """The decision; deferred after an alarm where the settings say so."""
        return decision.model_copy(update=self.replaced())

    def replaced(self) -> dict[str, Any]:
        """Values to replace in every answer, old or new: none, unless all must be deferred."""
        if self.alarm and self._settings.after_alarm == "defer":
            return {"decision": "defer", "reason": DEFERRED}
        return {}

    def draw(self, case: Case) -> Case:
        """Draw whether a new case is audited, and whether and where it is listed blind."""
        drawn = self._uniform(f"group {case.group}" if case.group else f"image {case.sha256}")
        share, errors, accepted = self._row.share, self._errors, sum(self._accepted)
        blind_share = share
        if case.decision != "accept":
            per_deferred = accepted / max(1, len(self._accepted) - accepted)
            blind_share *= max(1.0, BLIND_PER_AUDITED * per_deferred)
        place = self._uniform(f"place {case.id}")
        position = errors[int(place * len(errors))] if errors else place
        self._notice(case.decision, case.error_probability)
        flags = {"audited": drawn < share, "blind": drawn < blind_share, "position": position}
        return case.model_copy(update=flags)

    def _notice(self, decision: Outcome, error: float | None) -> None:
        self._accepted.append(decision == "accept")
        if decision != "accept" and error is not None:
            self._errors.append(error)

    def _uniform(self, text: str) -> float:
        digest = hmac.digest(self._row.secret.encode(), text.encode(), "sha256")
        return int.from_bytes(digest[:8]) / 2**64

    def report(self) -> Audit:
        """The state of the audits; computed when there is a new review, and each minute."""
        with self._lock:
            key = self._store.latest()[1], int(time.time() / VALID_SECONDS)
            if self._computed is None or self._computed[0] != key:
                self._computed = key, self._report(datetime.now(UTC))
            self.alarm = self._computed[1].alarm
            return self._computed[1]

    def sample(self) -> list[Case]:
        """The audit sample, whatever was decided, oldest first and before the first open case."""
        return [*takewhile(lambda case: not case.blind, self._store.audited(self._fingerprint))]

    def found_wrong(self, reader: str) -> list[CaseWithHistory]:
        """Accepted answers that blind readers found wrong, and are not blind to this reader."""
        self.report()
        wrong = self._wrong
        cases = self._store.cases([*wrong], reader)
        return [
            CaseWithHistory(**cases[id].model_dump(), reviews=given)
            for id, given in wrong.items()
            if not cases[id].blind
        ]

    def _report(self, now: datetime) -> Audit:
        late = now - timedelta(days=self._settings.audit_days)
        answers, groups = self._store.blind_answers(), set[str | None]()
        judged, times = list[Judged | None](), list[datetime]()
        wrong = dict[str, list[Review]]()
        for case in self._store.audited(self._fingerprint):
            given = answers.get(case.id, [])
            answer = standing(given)
            if case.decision == "accept" and answer != "right" and classes_against(given):
                wrong[case.id] = given
            is_repeated = case.group is not None and case.group in groups
            if is_repeated or not (case.decision == "accept" or self._counts_all):
                continue  # answers of one group are not independent
            groups.add(case.group)
            is_overdue = not given and case.received < late
            is_right = case.decision != "accept"  # no wrong answer was accepted
            judged.append("right" if is_right else "overdue" if is_overdue else answer)
            times.append(given[-1].reviewed_at if given else case.received)
        self._wrong = dict(reversed(wrong.items()))
        outcomes = list(takewhile(bool, judged))
        state = audit_state([outcome for outcome in outcomes if outcome], target=self._target)
        counts = state._asdict() | {"overdue": self._store.open_blind(zulu(late))}
        return Audit(
            **counts,
            share=self._row.share,
            since=self._row.since,
            target=self._target,
            among="all" if self._counts_all else "accepted",
            accepted=self._store.accepted(self._fingerprint, self._row.since),
            later=sum(outcome is not None for outcome in judged) - len(outcomes),
            alarm=state.alarm_at is not None,
            alarm_since=max(times[: state.alarm_at]) if state.alarm_at else None,
            after_alarm=self._settings.after_alarm,
        )
