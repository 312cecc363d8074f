"""Drift of the stored cases from the calibration cases."""

import math
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from misgiving.deferral import drift
from misgiving.deferral.drift import FALSE_ALARMS, DriftMonitor
from misgiving.deferral.expected_performance import expected_errors
from misgiving.deferral.policy import Policy
from misgiving.report.rendering import lines
from misgiving.serve.audits import DEFERRED, Audits
from misgiving.serve.records import Moment
from misgiving.serve.store import Store

MAX_CASES = 10_000  # that one update takes into account
MAX_LATEST = 10_000  # images whose expected errors are estimated
PAUSE_SECONDS, IDLE_SECONDS = 2.0, 20.0  # between updates: with new cases, and without
NO_DRIFT = "There is no evidence that the images have changed since the calibration."
DRIFT = (
    "The images are no longer like the calibration cases, so the target error rate may be "
    "exceeded. Look at the deferred and the accepted cases, and calibrate with new ones."
)


class DriftTest(BaseModel):
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
    tests: list[DriftTest] = []
    expected: str = Field(
        default="",
        description="Right answers that are expected of the latest images, without labels, and "
        "whether to trust that; empty where it cannot be estimated.",
    )


class DriftTracker:
    """Feeds the cases that one policy decided to its drift tests, each image once.

    Cases of a list of images take no part, because a list is a selection.

    Its state follows from the cases in the store, which a restart reads again: some 10,000 in a
    second. A thread updates it, so that nobody who asks for it waits.
    """

    def __init__(self, policy: Policy, store: Store, audits: Audits | None = None) -> None:
        self._policy, self._store, self._audits = policy, store, audits
        self._monitor = DriftMonitor(policy.certificate)
        self._latest_errors: deque[tuple[float, bool]] = deque(maxlen=MAX_LATEST)  # with: accepted
        self._contents: set[int] = set()  # the last 64 bits, since there may be millions
        self._last_number = 0
        self._since: dict[str, datetime] = {}
        self._drift = Drift(summary=NO_DRIFT, complete=False)
        self._woken, self._stopped = threading.Event(), threading.Event()

    @property
    def latest(self) -> Drift:
        """The result of the last update."""
        complete = self._drift.complete and not self._woken.is_set()
        return self._drift.model_copy(update={"complete": complete})

    def notice(self) -> None:
        """Update soon, because there is a new case."""
        self._woken.set()

    def start(self, on_failure: Callable[[Exception], object]) -> None:
        """Update in a thread from now on."""
        self._thread = threading.Thread(
            target=self._run, args=(on_failure,), name="drift", daemon=True
        )
        self._thread.start()

    def close(self, seconds: float) -> None:
        """End the thread; wait for at most these seconds."""
        self._stopped.set()
        self._woken.set()
        self._thread.join(seconds)

    def _run(self, on_failure: Callable[[Exception], object]) -> None:
        while not self._stopped.is_set():
            try:
                if self._audits is not None:
                    self._audits.report()  # other services take reviews, too
                if not self.update().complete:
                    continue
            except Exception as failure:  # the thread keeps running
                on_failure(failure)
            self._woken.wait(IDLE_SECONDS)
            self._stopped.wait(PAUSE_SECONDS)

    def update(self) -> Drift:
        """Take the cases since the last update into account."""
        self._woken.clear()
        fingerprint = self._policy.fingerprint
        cases = self._store.decided(fingerprint, after=self._last_number, limit=MAX_CASES)
        for case in cases:
            self._last_number = case.number
            self._test(case)
        self._drift = Drift(
            alarm=bool(self._since),
            summary=DRIFT if self._since else NO_DRIFT,
            cases=self._monitor.cases,
            complete=len(cases) < MAX_CASES,
            tests=[self._described(test) for test in self._monitor.tests],
            expected=self._expected(),
        )
        return self._drift

    def _test(self, case: Any) -> None:
        """Take a row of the store into account, if the policy decided, and on a new image."""
        content = int(case.sha256[-16:], 16)
        if content in self._contents or case.reason == DEFERRED:
            return
        self._contents.add(content)
        score = math.nan if case.acceptance_score is None else case.acceptance_score
        accepted = case.decision == "accept"
        error = math.nan if case.error_probability is None else case.error_probability
        self._latest_errors.append((error, accepted))
        self._monitor.update(
            score=score,
            ood_score=math.nan if case.ood_score is None else case.ood_score,
            accepted=accepted,
            content=case.sha256,
        )
        for test in self._monitor.tests:
            if test.since is not None:
                self._since.setdefault(test.name, datetime.fromisoformat(case.received))

    def _described(self, test: drift.DriftTest) -> DriftTest:
        latest, at_alarm = (
            lines("drift.txt", "drift", test, recent, self._policy.compares_with_training)[0]
            for recent in (test.latest, test.alarmed_with)
        )
        return DriftTest(
            name=test.name,
            e_value=test.e_value,
            highest=test.highest,
            alarm_at=test.alarm_at,
            since=self._since.get(test.name),
            sentence=latest,
            alarmed_with=None if test.alarmed_with is None else at_alarm,
        )

    def _expected(self) -> str:
        if not self._latest_errors:
            return ""
        errors, accepted = map(np.array, zip(*self._latest_errors, strict=True))
        expected = expected_errors(self._policy, errors, accepted)
        if expected is None:
            return ""
        values = expected, self._policy.unit, bool(self._since)
        return " ".join(lines("drift.txt", "expected", *values))
