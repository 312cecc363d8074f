"""Counts and times for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Monitoring:
    """What the service counts; of one service alone, so that several can be in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "misgiving_requests",
            "Requests by path and status.",
            ("method", "path", "status"),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "misgiving_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ("method", "path"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.decisions = Counter(
            "misgiving_decisions",
            "Answered images by decision.",
            ("decision",),
            registry=self._registry,
        )
        self.refused_images = Counter(
            "misgiving_refused_images", "Files that could not be read.", registry=self._registry
        )
        self.failures = Counter(
            "misgiving_failures",
            "What the service could not do: with the store, with kept images, or otherwise.",
            ("of",),
            registry=self._registry,
        )
        self.batch_sizes = Histogram(
            "misgiving_batch_images",
            "Images that the model saw at once.",
            buckets=SIZES,
            registry=self._registry,
        )
        self.waiting = Gauge(
            "misgiving_waiting_images",
            "Images that wait for their answer.",
            registry=self._registry,
        )
        self.hung_readers = Gauge(
            "misgiving_hung_readers",
            "Threads that have been at one image for longer than any takes.",
            registry=self._registry,
        )
        self.held_bytes = Gauge(
            "misgiving_held_bytes",
            "Bytes of the requests that are being answered.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
