"""The draw of blind audits.

A case is audited if a keyed hash of its group, or else of its content, is below the share: nobody
can predict or repeat the draw. Audited cases are blind, and so are others that were deferred, among
which accepted ones cannot be told.
"""

import hmac
from collections import deque
from typing import Any

from misgiving.deferral.decisions import Outcome
from misgiving.serve.case import Case
from misgiving.serve.store import Store

MAX_RECENT = 2000  # cases that tell how many are accepted, and their error probabilities
BLIND_PER_AUDITED = 1.5  # deferred per accepted case, so that chance seldom leaves fewer


class AuditDraw:
    """Draws the cases of a policy that are audited, and that are read blind.

    Args:
        store: Has the latest cases.
        row: Share and secret of the policy, from the store.
    """

    def __init__(self, store: Store, row: Any) -> None:
        self._share, self._secret = row.share, row.secret.encode()
        self._accepted = deque[bool](maxlen=MAX_RECENT)
        self._errors = deque[float](maxlen=MAX_RECENT)
        after = max(0, store.latest()[0] - MAX_RECENT)
        for case in store.decided(row.policy_fingerprint, after=after, limit=MAX_RECENT):
            self._note(case.decision, case.error_probability)

    def draw(self, case: Case) -> Case:
        """Draw whether a new case is audited, and whether and where it is listed blind."""
        drawn = self._uniform(f"group {case.group}" if case.group else f"image {case.sha256}")
        errors, accepted, blind_share = self._errors, sum(self._accepted), self._share
        if case.decision != "accept":
            per_deferred = accepted / max(1, len(self._accepted) - accepted)
            blind_share *= max(1.0, BLIND_PER_AUDITED * per_deferred)
        place = self._uniform(f"place {case.id}")
        position = errors[int(place * len(errors))] if errors else place
        self._note(case.decision, case.error_probability)
        flags = {"audited": drawn < self._share, "blind": drawn < blind_share, "position": position}
        return case.model_copy(update=flags)

    def _note(self, decision: Outcome, error: float | None) -> None:
        self._accepted.append(decision == "accept")
        if decision != "accept" and error is not None:
            self._errors.append(error)

    def _uniform(self, text: str) -> float:
        digest = hmac.digest(self._secret, text.encode(), "sha256")
        return int.from_bytes(digest[:8]) / 2**64
