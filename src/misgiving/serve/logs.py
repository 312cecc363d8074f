"""Log lines as JSON objects."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what else the caller gives as `fields`.

    Args:
        names: Whether a line may name files. Else of an exception only its kind and its place are
            told, since its text may hold anything.
    """

    def __init__(self, *, names: bool = False) -> None:
        super().__init__()
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            tell = self.formatException if self._names else _kinds_and_places
            content["traceback"] = tell(record.exc_info)
        return json.dumps(content)


def _kinds_and_places(told: Any) -> str:
    """A traceback without the texts of its exceptions, the first cause first."""
    chain: list[BaseException] = [told[1]]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    parts = [[*traceback.format_tb(one.__traceback__), type(one).__name__] for one in chain[::-1]]
    return "\n".join("".join(part) for part in parts)


def log_as_json(*, names: bool = False) -> None:
    """Every log line and warning of this process goes to standard error as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(names=names))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
