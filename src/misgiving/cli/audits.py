"""`misgiving audits`: what follows an alarm."""

from misgiving.cli.cases import StoreLocation, opened_store
from misgiving.cli.options import command
from misgiving.cli.progress import say


@command
def resume(store: StoreLocation, /, *, reason: str) -> None:
    """Lift the alarm of the audits: images are accepted again, from half a minute later.

    Cases from now on can raise another one. Find the cause first, and tell whoever acted on
    answers that were found wrong.

    Args:
        reason: Cause of the alarm, and how it was removed; it is kept and logged.
    """
    from misgiving.serve.audits import resume as lift

    with opened_store(store) as opened:
        for audit in lift(opened, reason):
            say(
                f"policy {audit.policy_fingerprint[:12]}: the alarm since {audit.alarm_since} is "
                f"lifted ({audit.wrong} of {audit.audited} audited answers were wrong)"
            )
