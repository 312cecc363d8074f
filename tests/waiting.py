"""Waiting for events in tests; imports nothing, so that any process may."""

import time


def until(found, *, seconds=600):
    """What `found` gives as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value
