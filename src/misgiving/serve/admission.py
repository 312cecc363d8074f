"""How much may be under way at once; all calls come from the event loop's one thread."""

from collections.abc import Iterator
from contextlib import contextmanager

from misgiving.serve.problems import too_busy
from misgiving.serve.settings import Settings


class Admission:
    """Counts images that wait for an answer, and bytes that requests hold in memory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.images = 0
        self.held_bytes = 0

    @contextmanager
    def request(self) -> Iterator["Ticket"]:
        """The share of one request, given back at its end."""
        ticket = Ticket(self)
        try:
            yield ticket
        finally:
            self.images -= ticket.images
            self.held_bytes -= ticket.held_bytes

    def refuse_images(self, count: int) -> None:
        """Refuse a request for which there is no room in the queue."""
        if self.images + count > self._settings.queue:
            raise too_busy(
                f"{self.images} images are waiting, and the queue holds {self._settings.queue}; "
                "send the request again after the seconds in Retry-After"
            )

    def refuse_bytes(self, count: int) -> None:
        """Refuse a request for which there is no room in memory."""
        if self.held_bytes + count > self._settings.max_held_bytes:
            raise too_busy(
                "the requests that are being answered fill the memory that they may have; send "
                "the request again after the seconds in Retry-After"
            )


class Ticket:
    """What one request has been given."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.images = 0
        self.held_bytes = 0

    def take_image(self) -> None:
        """One more place in the queue."""
        self._admission.refuse_images(1)
        self._admission.images += 1
        self.images += 1

    def take_bytes(self, count: int) -> None:
        """So much more memory."""
        self._admission.refuse_bytes(count)
        self._admission.held_bytes += count
        self.held_bytes += count
