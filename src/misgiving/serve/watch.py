"""Whether the cases in the store still are like the calibration cases."""

import math
import threading
from datetime import datetime
from typing import NamedTuple

from misgiving.deferral import DeferralPolicy, DriftMonitor, DriftTest
from misgiving.serve.store import Store

AT_ONCE = 10_000  # cases that one call takes into account, at most
OVERLAP = 4096  # numbers that are read again: a lower one may be committed after a higher one


class Seen(NamedTuple):
    """What the watch has found.

    Attributes:
        cases: How many different images were taken into account.
        complete: Whether these are all there are.
        tests: One for each way in which cases may change.
        since: When a test has alarmed, by its name.
        missing: Why a test is not made, in words.
    """

    cases: int
    complete: bool
    tests: list[DriftTest]
    since: dict[str, datetime]
    missing: list[str]


class Watch:
    """Tests the cases that one policy has decided, each image once; safe in threads.

    What it knows follows from the store, so that it survives a restart.
    """

    def __init__(self, policy: DeferralPolicy, store: Store, policy_fingerprint: str) -> None:
        self._monitor = DriftMonitor(policy)
        self._store, self._policy = store, policy_fingerprint
        self._contents: set[int] = set()  # the last 64 bits, since there may be millions
        self._last = 0
        self._since: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def look(self) -> Seen:
        """Take into account what has come since the last look."""
        with self._lock:
            complete = self._catch_up()
            return Seen(
                cases=self._monitor.cases,
                complete=complete,
                tests=self._monitor.tests,
                since=dict(self._since),
                missing=[],
            )

    def _catch_up(self) -> bool:
        taken = 0
        for case in self._store.decided(self._policy, after=self._last - OVERLAP):
            if taken == AT_ONCE:
                return False
            self._last = max(self._last, case.number)
            content = int(case.sha256[-16:], 16)
            if content in self._contents:
                continue
            taken += 1
            self._contents.add(content)
            self._monitor.update(
                score=_number(case.score),
                ood_score=_number(case.ood_score),
                accepted=case.decision == "accept",
                content=case.sha256,
            )
            for name in self._monitor.alarms:
                self._since.setdefault(name, case.received)
        return True


def _number(value: float | None) -> float:
    return math.nan if value is None else value
