"""What fails: the reason goes into the log and a count, and clients get a fixed sentence."""

import logging
from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError

from misgiving.errors import DataError
from misgiving.serve.monitoring import Monitoring
from misgiving.serve.problems import ProblemError

log = logging.getLogger("misgiving.serve")

NO_STORE = "the store cannot be used, so nothing was answered; send it again later"
NOT_KEPT = (
    "the image cannot be kept, so it is not answered; check the folder of --keep-images and its "
    "free space"
)
UNEXPECTED = "the service has failed; its log says where. Please report it"


class NotKeptError(Exception):
    """An image file could not be written."""


def explained(failure: Exception, monitoring: Monitoring, *, path: str) -> ProblemError:
    """What a client is told; what is the service's own failure is logged and counted.

    Args:
        failure: Of a request, or of one file in it.
        monitoring: Where it is counted.
        path: The route, for the log.
    """
    match failure:
        case ProblemError():
            return failure
        case DataError():
            return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, str(failure))
        case SQLAlchemyError():
            note("store", monitoring, path=path, reason=_reason(failure))
            return _later(NO_STORE)
        case NotKeptError():
            note("images", monitoring, path=path, reason=_reason(failure.__cause__))
            return _later(NOT_KEPT)
    monitoring.failures.labels("other").inc()
    log.error("failure", exc_info=failure, extra={"fields": {"path": path}})
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, UNEXPECTED)


def note(what: str, monitoring: Monitoring, **fields: str) -> None:
    """Log and count that the store or the images failed."""
    monitoring.failures.labels(what).inc()
    log.error(f"{what} failure", extra={"fields": fields})


def _later(detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, detail).with_header("Retry-After", "5")


def _reason(failure: BaseException | None) -> str:
    """In the system's or the driver's words, which name no file of a client's.

    Only the first line: PostgreSQL's further ones may hold the values of a row.
    """
    said = getattr(failure, "strerror", None) or getattr(failure, "orig", None)
    lines = str(said or "").strip().splitlines()
    return lines[0] if lines else type(failure).__name__
