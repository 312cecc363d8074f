"""Drift of the stored cases from the calibration cases."""

import io
import json
import math
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from misgiving.deferral import drift
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.drift import FALSE_ALARMS, DriftMonitor
from misgiving.deferral.expected_performance import expected_errors
from misgiving.report.drift import drift_sentence, expected_sentences
from misgiving.serve.schemas import Moment
from misgiving.serve.store import Store

MAX_CASES = 10_000  # that one update takes into account
MAX_LATEST = 10_000  # images whose expected errors are estimated
OVERLAP = 4096  # numbers that are read again: a lower one may be committed after a higher one
PAUSE_SECONDS, IDLE_SECONDS = 2.0, 20.0  # between updates: with new cases, and without
MIN_SAVED_CASES, MIN_SAVED_SHARE = 1000, 0.1  # new cases after which the state is saved, at least
STATE = "drift {}"  # name of the stored state of a policy
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

    Its state follows from the cases in the store. A copy of it is stored as well, from which a
    restart continues. A thread updates it, so that nobody who asks for it waits.
    """

    def __init__(self, deferral: Deferral, store: Store) -> None:
        self._deferral = deferral
        self._store, self._fingerprint = store, deferral.fingerprint
        self._monitor = DriftMonitor(deferral.certificate_)
        self._latest_scores: deque[tuple[float, bool]] = deque(maxlen=MAX_LATEST)  # with: accepted
        self._contents: set[int] = set()  # the last 64 bits, since there may be millions
        self._last_number = 0
        self._since: dict[str, datetime] = {}
        self._resumed, self._saved_cases = False, 0
        self._drift = Drift(summary=NO_DRIFT, complete=False)
        self._noticed = self._noticed_before_update = 0  # new cases
        self._woken, self._stopped = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def latest(self) -> Drift:
        """The result of the last update."""
        complete = self._drift.complete and self._noticed_before_update == self._noticed
        return self._drift.model_copy(update={"complete": complete})

    def notice(self) -> None:
        """Update soon, because there is a new case."""
        self._noticed += 1
        self._woken.set()

    def start(self, on_failure: Callable[[Exception], object]) -> None:
        """Update in a thread from now on."""
        self._thread = threading.Thread(
            target=self._run, args=(on_failure,), name="drift", daemon=True
        )
        self._thread.start()

    def close(self, seconds: float) -> None:
        """End the thread, which saves the state first."""
        self._stopped.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, on_failure: Callable[[Exception], object]) -> None:
        while not self._stopped.is_set():
            is_behind = False
            try:
                self.update()
                is_behind = not self._drift.complete
            except Exception as failure:  # the thread keeps running
                on_failure(failure)
            if not is_behind:
                self._woken.wait(IDLE_SECONDS)
                self._stopped.wait(PAUSE_SECONDS)
        try:
            self._save()
        except Exception as failure:
            on_failure(failure)

    def update(self) -> Drift:
        """Take the cases since the last update into account."""
        if not self._resumed:
            self._resume()
        self._woken.clear()
        noticed = self._noticed
        num_new, complete = self._test_new_cases()
        if num_new or not self._drift.complete:
            self._drift = Drift(
                alarm=bool(self._since),
                summary=DRIFT if self._since else NO_DRIFT,
                cases=self._monitor.cases,
                complete=complete,
                tests=[self._described(test) for test in self._monitor.tests],
                expected=self._expected(),
            )
        self._noticed_before_update = noticed
        unsaved = self._monitor.cases - self._saved_cases
        if unsaved > max(MIN_SAVED_CASES, MIN_SAVED_SHARE * self._saved_cases):
            self._save()
        return self.latest

    def _described(self, test: drift.DriftTest) -> DriftTest:
        latest, at_alarm = (
            drift_sentence(test, recent, knows_training=self._deferral.compares_with_training)
            for recent in (test.recent, test.alarmed_with)
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

    def _test_new_cases(self) -> tuple[int, bool]:
        """Number of new cases, and True unless more wait."""
        num_new = 0
        for case in self._store.decided(self._fingerprint, after=self._last_number - OVERLAP):
            if num_new == MAX_CASES or self._stopped.is_set():
                return num_new, False
            self._last_number = max(self._last_number, case.number)
            content = int(case.sha256[-16:], 16)
            if content in self._contents:
                continue
            num_new += 1
            self._contents.add(content)
            score = math.nan if case.acceptance_score is None else case.acceptance_score
            accepted = case.decision == "accept"
            self._latest_scores.append((score, accepted))
            self._monitor.update(
                score=score,
                ood_score=math.nan if case.ood_score is None else case.ood_score,
                accepted=accepted,
                content=case.sha256,
            )
            for name in self._monitor.alarms:
                self._since.setdefault(name, datetime.fromisoformat(case.received))
        return num_new, True

    def _expected(self) -> str:
        if not self._latest_scores:
            return ""
        scores, accepted = map(np.array, zip(*self._latest_scores, strict=True))
        errors = np.full(len(scores), np.nan)
        is_finite = np.isfinite(scores)
        errors[is_finite] = self._deferral.calibration_.error(scores[is_finite])
        expected = expected_errors(self._deferral, errors, accepted)
        if expected is None:
            return ""
        unit = self._deferral.unit_
        return " ".join(expected_sentences(expected, unit, drifted=bool(self._since)))

    def _resume(self) -> None:
        """Continue from the state in the store, if there is one."""
        saved = self._store.load(STATE.format(self._fingerprint))
        if saved is not None:
            with np.load(io.BytesIO(saved), allow_pickle=False) as state:
                self._monitor.restore(state)
                self._contents = set(state["contents"].tolist())
                self._latest_scores.extend((score, flag > 0) for score, flag in state["latest"])
                self._last_number, since = json.loads(str(state["rest"]))
            self._since = {name: datetime.fromisoformat(time) for name, time in since.items()}
            self._saved_cases = self._monitor.cases
        self._resumed = True

    def _save(self) -> None:
        if self._monitor.cases == self._saved_cases:
            return
        since = {name: time.isoformat() for name, time in self._since.items()}
        state: dict[str, Any] = self._monitor.state() | {
            "contents": np.fromiter(self._contents, np.uint64, len(self._contents)),
            "latest": np.array(self._latest_scores, dtype=float).reshape(-1, 2),
            "rest": np.array(json.dumps([self._last_number, since])),
        }
        file = io.BytesIO()
        np.savez(file, **state)
        self._store.save(STATE.format(self._fingerprint), file.getvalue())
        self._saved_cases = self._monitor.cases
