"""Drift of the stored cases from the calibration cases."""

import math
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from misgiving.deferral.drift import DriftMonitor, DriftTest
from misgiving.deferral.policy import DeferralPolicy
from misgiving.serve.store import Store

MAX_CASES = 10_000  # that one update takes into account
OVERLAP = 4096  # numbers that are read again: a lower one may be committed after a higher one


class DriftStatus(NamedTuple):
    """State of the drift tests.

    Attributes:
        cases: Different images taken into account.
        complete: False if more cases wait for the next update.
        tests: One for each kind of change.
        since: Time of the alarm, by the name of the test.
    """

    cases: int = 0
    complete: bool = True
    tests: Sequence[DriftTest] = ()
    since: Mapping[str, datetime] = MappingProxyType({})


class DriftTracker:
    """Feeds the cases that one policy decided to its drift tests, each image once; thread-safe.

    Its state follows from the store, so it survives a restart.
    """

    def __init__(self, policy: DeferralPolicy, store: Store, policy_fingerprint: str) -> None:
        self._monitor = DriftMonitor(policy)
        self._store, self._policy = store, policy_fingerprint
        self._contents: set[int] = set()  # the last 64 bits, since there may be millions
        self._last = 0
        self._since: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def update(self) -> DriftStatus:
        """Take the cases since the last update into account."""
        with self._lock:
            complete = self._catch_up()
            return DriftStatus(
                cases=self._monitor.cases,
                complete=complete,
                tests=self._monitor.tests,
                since=dict(self._since),
            )

    def _catch_up(self) -> bool:
        taken = 0
        for case in self._store.decided(self._policy, after=self._last - OVERLAP):
            if taken == MAX_CASES:
                return False
            self._last = max(self._last, case.number)
            content = int(case.sha256[-16:], 16)
            if content in self._contents:
                continue
            taken += 1
            self._contents.add(content)
            self._monitor.update(
                score=math.nan if case.acceptance_score is None else case.acceptance_score,
                ood_score=math.nan if case.ood_score is None else case.ood_score,
                accepted=case.decision == "accept",
                content=case.sha256,
            )
            for name in self._monitor.alarms:
                self._since.setdefault(name, case.received)
        return True
