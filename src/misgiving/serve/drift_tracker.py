"""Drift of the stored cases from the calibration cases."""

import math
import threading
from collections import deque
from datetime import datetime

import numpy as np
from pydantic import BaseModel, Field

from misgiving.calibrators.apply import Calibrator
from misgiving.decisions.expected_performance import DISTRUST, expected_errors, trust
from misgiving.deferral.drift import FALSE_ALARMS, DriftMonitor
from misgiving.deferral.policy import DeferralPolicy
from misgiving.serve.schemas import Moment
from misgiving.serve.store import Store

MAX_CASES = 10_000  # that one update takes into account
LATEST = 10_000  # images of which the expected errors are estimated
OVERLAP = 4096  # numbers that are read again: a lower one may be committed after a higher one
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
    complete: bool = Field(default=True, description="False if more cases wait: ask again.")
    tests: list[DriftTest] = []
    expected: str = Field(
        default="",
        description="Right answers that are expected of the latest images, without labels, and "
        "whether to trust that; empty where it cannot be estimated.",
    )


class DriftTracker:
    """Feeds the cases that one policy decided to its drift tests, each image once; thread-safe.

    Cases of a list of images take no part, because a list is a selection.

    Its state follows from the store, so it survives a restart.
    """

    def __init__(
        self,
        policy: DeferralPolicy,
        store: Store,
        policy_fingerprint: str,
        calibrator: Calibrator | None = None,
    ) -> None:
        self._calibrator, self._policy = calibrator, policy
        self._latest: deque[tuple[float, bool]] = deque(maxlen=LATEST)  # scores, accepted or not
        self._monitor = DriftMonitor(policy)
        self._store, self._fingerprint = store, policy_fingerprint
        self._contents: set[int] = set()  # the last 64 bits, since there may be millions
        self._last = 0
        self._since: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def update(self) -> Drift:
        """Take the cases since the last update into account."""
        with self._lock:
            complete = self._catch_up()
            return Drift(
                alarm=bool(self._since),
                summary=DRIFT if self._since else NO_DRIFT,
                cases=self._monitor.cases,
                complete=complete,
                tests=[
                    DriftTest(**{**one._asdict(), "since": self._since.get(one.name)})
                    for one in self._monitor.tests
                ],
                expected=self._expected(),
            )

    def _expected(self) -> str:
        if self._calibrator is None or not self._latest:
            return ""
        scores, accepted = map(np.array, zip(*self._latest, strict=True))
        errors = np.full(len(scores), np.nan)
        known = np.isfinite(scores)
        errors[known] = self._calibrator.error(scores[known])
        found = expected_errors(self._policy, self._calibrator, errors, accepted)
        if found is None:
            return ""
        last = DISTRUST if self._since else trust(self._policy.unit)
        return " ".join([*found.sentences, last])

    def _catch_up(self) -> bool:
        taken = 0
        for case in self._store.decided(self._fingerprint, after=self._last - OVERLAP):
            if taken == MAX_CASES:
                return False
            self._last = max(self._last, case.number)
            content = int(case.sha256[-16:], 16)
            if content in self._contents:
                continue
            taken += 1
            self._contents.add(content)
            score = math.nan if case.acceptance_score is None else case.acceptance_score
            self._latest.append((score, case.decision == "accept"))
            self._monitor.update(
                score=score,
                ood_score=math.nan if case.ood_score is None else case.ood_score,
                accepted=case.decision == "accept",
                content=case.sha256,
            )
            for name in self._monitor.alarms:
                self._since.setdefault(name, case.received)
        return True
