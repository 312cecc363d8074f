"""`misgiving audits`: what follows an alarm."""

from contextlib import closing

from misgiving.cli.keys import StoreLocation
from misgiving.cli.options import command
from misgiving.cli.progress import say


@command
def resume(store: StoreLocation, /, *, reason: str) -> None:
    """Lift the alarm of the audits: images are accepted again, from half a minute later.

    Cases from now on can raise another one. Find the cause first, and tell whoever acted on
    answers that were found wrong.

    Args:
        store: Database of cases, as of `misgiving serve --store`.
        reason: Cause of the alarm, and how it was removed; it is kept and logged.
    """
    from misgiving.serve.audits import resume as lift
    from misgiving.serve.database import check_exists
    from misgiving.serve.store import Store

    check_exists(store)
    with closing(Store.open(store)) as opened:
        for audit in lift(opened, reason):
            say(
                f"policy {audit.policy_fingerprint[:12]}: the alarm since {audit.alarm_since} is "
                f"lifted ({audit.wrong} of {audit.audited} audited answers were wrong)"
            )
