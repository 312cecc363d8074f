"""The monitor of a policy: drift of its cases, the alarm of its audits, and their draw."""

import logging
import math
import threading
import time
from collections import deque
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from misgiving.deferral.drift import FALSE_ALARMS, DriftMonitor, DriftTest
from misgiving.deferral.expected_performance import expected_errors
from misgiving.deferral.policy import Policy
from misgiving.deferral.sentences import lines
from misgiving.serve.audits import Audit, Shadow, count_audits, last_resumption, unit_of
from misgiving.serve.case import CASES_PER_DRAW, Case, Moment, uniform
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

log = logging.getLogger("misgiving.serve")

MAX_CASES = 10_000  # that one update takes into account
MAX_LATEST = 10_000  # images whose expected errors are estimated
AUDIT_SECONDS = 60  # for which an audit holds, unless there is a new review
MAX_RECENT = 2000  # cases that tell how many are accepted
BLIND_PER_AUDITED = 1.5  # deferred per accepted case, so that chance seldom leaves fewer
LOGGED = {
    *("policy_fingerprint", "target", "audited", "wrong", "unconfirmed", "overdue", "upper"),
    *("alarm_since", "after_alarm", "resumed_at", "reason", "next_steps"),
}
"""Fields of an audit in the log, where its alarm begins or ends."""
DEFERRED_BY_ALARM = (
    "audits found too many errors among accepted answers, so every image is deferred"
)


class DriftEvidence(BaseModel):
    """A sequential test, valid at any time."""

    name: str
    e_value: float = Field(description="Starts at 1, and grows with the evidence of a change.")
    highest: float
    alarm_at: float
    since: Moment | None = Field(description="Time of the alarm.")
    sentence: str = Field(description="The latest cases in words.")
    alarmed_with: str | None = Field(description="The cases before the alarm in words.")


class Drift(BaseModel):
    """Comparison of the cases with the calibration cases."""

    alarm: bool = False
    summary: str
    false_alarms: float = Field(
        default=FALSE_ALARMS, description="Probability of any false alarm, ever."
    )
    cases: int = Field(default=0, description="Number of different images that were tested.")
    complete: bool = Field(
        default=True, description="False if more cases wait: ask again in some seconds."
    )
    tests: list[DriftEvidence] = []
    expected: str = Field(
        default="",
        description="Right answers that are expected of the latest images, without labels, and "
        "whether to trust that; empty where it cannot be estimated.",
    )


class Monitor:
    """Tests the cases of a policy for drift, and counts the audits of its answers.

    Its state follows from the store, which a restart reads again: some 10,000 cases in a second. A
    thread calls `update`, so that nobody who asks for it waits.

    Args:
        store: Has the cases and their reviews.
        policy: It decided the cases.
        settings: Of audits.
        audits: Share of the policy's cases that is audited, and since when, from the store.
    """

    def __init__(
        self, store: Store, policy: Policy, settings: ServiceSettings, audits: Any = None
    ) -> None:
        self._store, self._policy, self._settings, self._audits = store, policy, settings, audits
        self._drift_tests = DriftMonitor(policy.certificate)
        self._drift = Drift(summary=lines("drift.txt", "summary", False)[0], complete=False)
        self._latest_scores: deque[tuple[float, bool]] = deque(maxlen=MAX_LATEST)  # with: accepted
        self._last_number = 0
        self._since: dict[str, datetime] = {}
        self.evidence: dict[str, dict[str, float]] = {}  # e-values of the drift tests by day
        self._lock = threading.Lock()
        self._audit: tuple[Any, Audit] | None = None  # with the key of its state
        self.has_new = threading.Event()  # cases, so that an update is due
        self.audit()

    @property
    def drift(self) -> Drift:
        """The result of the last update."""
        complete = self._drift.complete and not self.has_new.is_set()
        return self._drift.model_copy(update={"complete": complete})

    @property
    def audit_alarm(self) -> bool:
        """True after an alarm of the last audit."""
        return self._audit is not None and self._audit[1].alarm

    def changed_by_alarm(self) -> dict[str, Any]:
        """Values to change in every answer, old or new: none, unless all must be deferred."""
        if self.audit_alarm and self._settings.after_alarm == "defer":
            return {"decision": "defer", "reason": DEFERRED_BY_ALARM}
        return {}

    def update(self) -> bool:
        """Take what is new into account; True if there is more of it."""
        self._store.settle_answers()
        self.audit()  # other services take reviews, too
        return not self.update_drift().complete

    def update_drift(self) -> Drift:
        """Take the cases since the last update into account.

        Cases of a list of images take no part, because a list is a selection.
        """
        self.has_new.clear()
        fingerprint = self._policy.fingerprint
        cases = self._store.decided(fingerprint, after=self._last_number, limit=MAX_CASES)
        for case in cases:
            self._last_number = case.number
            self._test(case)
        self._drift = Drift(
            alarm=bool(self._since),
            summary=lines("drift.txt", "summary", bool(self._since))[0],
            cases=self._drift_tests.tests[0].cases,
            complete=len(cases) < MAX_CASES,
            tests=[self._described(test) for test in self._drift_tests.tests],
            expected=self._expected(),
        )
        return self._drift

    def _test(self, case: Any) -> None:
        """Take a row of the store into account, if the policy decided, and on a new image."""
        if case.is_copy or case.reason == DEFERRED_BY_ALARM:
            return
        score, ood_score = (
            math.nan if number is None else number
            for number in (case.acceptance_score, case.ood_score)
        )
        accepted = case.decision == "accept"
        self._latest_scores.append((score, accepted))
        self._drift_tests.update(
            score=score, ood_score=ood_score, accepted=accepted, content=str(case.number)
        )
        self.evidence[case.received[:10]] = {
            test.name: test.e_value for test in self._drift_tests.tests
        }
        for test in self._drift_tests.tests:
            if test.since is not None:
                if test.name not in self._since:
                    log.warning("drift alarm", extra={"fields": {"test": test.name}})
                self._since.setdefault(test.name, datetime.fromisoformat(case.received))

    def _described(self, test: DriftTest) -> DriftEvidence:
        words = partial(lines, "drift.txt", "drift")
        compares = self._policy.compares_with_training
        alarmed_with = test.alarmed_with
        return DriftEvidence(
            name=test.name,
            e_value=test.e_value,
            highest=test.highest,
            alarm_at=test.alarm_at,
            since=self._since.get(test.name),
            sentence=words(test, test.latest, compares)[0],
            alarmed_with=alarmed_with and words(test, alarmed_with, compares)[0],
        )

    def _expected(self) -> str:
        if not self._latest_scores:
            return ""
        scores, accepted = map(np.array, zip(*self._latest_scores, strict=True))
        errors = self._policy.calibration.error_at(scores)
        expected = expected_errors(self._policy, errors, accepted)
        if expected is None:
            return ""
        values = expected, self._policy.unit, bool(self._since)
        return " ".join(lines("drift.txt", "expected", *values))

    def audit(self) -> Audit | None:
        """The state of the audits; computed when there is a new review, and each minute."""
        if self._audits is None:
            return None
        with self._lock:
            resumed = last_resumption(self._store, self._policy.fingerprint)
            key = self._store.latest()[1], resumed, int(time.time() / AUDIT_SECONDS)
            if self._audit is None or self._audit[0] != key:
                was_alarm = self.audit_alarm
                audit = count_audits(self._store, self._audits, self._settings)
                self._audit = key, audit
                if audit.alarm != was_alarm:
                    event = "audit alarm" if audit.alarm else "audit alarm lifted"
                    fields = audit.model_dump(mode="json", include=LOGGED)
                    log.warning(event, extra={"fields": fields})
            return self._audit[1]


class AuditDraw:
    """Draws the cases of a policy that are audited, and that are read blind.

    A case is audited if a keyed hash of its group, or else of its pixels, is below the share:
    nobody can predict or repeat the draw. Audited cases are blind, and so are others that were
    deferred, among which accepted ones cannot be told.

    After its first cases a group is drawn anew for each as many more. What is drawn then is blind,
    but not audited, as a copy of an image is not: it is no new unit.

    Args:
        store: Has the latest cases.
        row: Share and secret of the policy, from the store.
    """

    def __init__(self, store: Store, row: Any) -> None:
        self._share, self._secret = row.share, row.secret
        self._accepted = deque[bool](maxlen=MAX_RECENT)
        after = max(0, store.latest()[0] - MAX_RECENT)
        recent = store.decided(row.policy_fingerprint, after=after, limit=MAX_RECENT)
        self._accepted.extend(case.decision == "accept" for case in recent)

    def draw(self, case: Case) -> Case:
        """Draw whether a new case is audited, and whether and where it is listed blind."""
        number = (case.repeat or 0) // CASES_PER_DRAW  # the first draw is that of the unit alone
        drawn = uniform(self._secret, f"draw {number} of " * bool(number) + unit_of(case))
        accepted, blind_share = sum(self._accepted), self._share
        if case.decision != "accept":
            per_deferred = accepted / max(1, len(self._accepted) - accepted)
            blind_share *= max(1.0, BLIND_PER_AUDITED * per_deferred)
        self._accepted.append(case.decision == "accept")
        is_unit = number == 0 if case.group else not case.is_copy
        flags = {
            "audited": drawn < self._share and is_unit,
            "blind": drawn < blind_share,
            "position": uniform(self._secret, f"place {case.id}"),
        }
        return case.model_copy(update=flags)


def audit_draw(store: Store, row: Any, settings: ServiceSettings) -> AuditDraw | Shadow | None:
    """Draw of the cases to audit, for a row of `AUDITS` or a shadow; None: none are."""
    if row is None or isinstance(row, Shadow):
        return row
    return None if settings.audit_share == 0 else AuditDraw(store, row)
