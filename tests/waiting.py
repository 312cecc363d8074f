"""Waiting for events in tests; imports nothing, so that any process may."""

import time


def until(found, *, seconds=600):
    """Wait until `found` gives a true value, and return it.

    The limit only ends a test that would never end.
    """
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value
