"""Metrics for Prometheus, and logs as lines of JSON."""

import json
import logging.config
import traceback
from datetime import UTC, datetime
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Metrics of one service; in a registry of its own, so that a process can hold several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="misgiving", registry=self.registry)
        gauge = partial(Gauge, namespace="misgiving", registry=self.registry)
        histogram = partial(Histogram, namespace="misgiving", registry=self.registry)
        route = ("method", "path")
        self.requests = counter("requests", "Requests by route and status.", (*route, "status"))
        self.request_seconds = histogram(
            "request_seconds", "From request to end of response.", route, buckets=SECONDS
        )
        self.decisions = counter("decisions", "Images that were sent, by decision.", ("decision",))
        self.refused_images = counter("refused_images", "Files that could not be read.")
        self.failures = counter("failures", "Failures of store, images or other.", ("part",))
        self.batch_sizes = histogram("batch_images", "Images in one batch.", buckets=SIZES)
        self.waiting = gauge("waiting_images", "Images in the queue.")
        self.hung_threads = gauge("hung_threads", "Threads that are stuck at one image.")
        self.held_bytes = gauge("held_bytes", "Bytes of requests in progress.")
        self.drift_alarm = gauge("drift_alarm", "1 since an alarm of the drift tests, else 0.")
        self.drift_cases = gauge("drift_cases", "Images that the drift tests have seen.")
        self.drift_e_value = gauge("drift_e_value", "Evidence of a drift test.", ("test",))


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the caller's `fields`.

    Args:
        names: True if lines may contain file names. Otherwise an exception is logged by its type
            and line only, since its text may contain anything.
    """

    def __init__(self, *, names: bool = False) -> None:
        super().__init__()
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        created = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            describe = self.formatException if self._names else _types_and_lines
            content["traceback"] = describe(record.exc_info)
        return json.dumps(content)


def _types_and_lines(exc_info: Any) -> str:
    """A traceback without the texts of its exceptions, the first cause first."""
    chain: list[BaseException] = [exc_info[1]]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return "\n".join(
        "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])
        for error in reversed(chain)
    )


def log_as_json(*, names: bool = False) -> None:
    """Write all log lines and warnings of this process to standard error as JSON."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines, "names": names}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"level": "INFO", "handlers": ["stderr"]},
        }
    )
    logging.captureWarnings(True)
