"""The process of the service: its socket, its log, and uvicorn."""

import json
import logging.config
import resource
import socket
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from misgiving.errors import Parameter, UsageError
from misgiving.serve.authentication import is_loopback

OPEN_FILES = 4096  # of which connections, the database and image files take a part
BACKLOG = 256  # connections that are accepted before any of them is looked at
SWITCH_SECONDS = 0.0005  # else the event loop waits 5 ms after a system call for other threads
STOPPING_SECONDS = 2  # for requests in progress


def listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Open a listening socket.

    Raises:
        UsageError: Other machines could connect without a key, or the socket cannot be opened.
    """
    if not has_key and not is_loopback(host):
        raise UsageError(
            Parameter("host"),
            f" {host} lets other machines connect, which needs a key: give ",
            *(Parameter("api_key_file"), " or MISGIVING_API_KEY"),
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another "
            "host or port"
        ) from error
    # asyncio sets it on its own sockets alone; else a small answer waits 40 ms for the client.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    """The URL for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until the process is told to stop, and then finish requests for some seconds."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _log_as_json()
    _allow_open_files()
    config = uvicorn.Config(
        app,
        http="h11",  # reads no request of a connection before it has answered the last
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    with threadpool_limits(1, "blas"):  # more would wait for each other and for the graph's threads
        uvicorn.Server(config).run(sockets=[listener])


def _allow_open_files() -> None:
    """Raise the soft limit on open files, up to the hard limit."""
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, event, and the caller's `fields`.

    An exception is logged by its type and line only, since its text may contain file names.
    """

    def format(self, record: logging.LogRecord) -> str:
        created = datetime.fromtimestamp(record.created, UTC)
        content = {
            "time": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            chain: list[BaseException] = [record.exc_info[1]]
            while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
                chain.append(cause)
            content["traceback"] = "\n".join(
                "".join([*traceback.format_tb(error.__traceback__), type(error).__name__])
                for error in reversed(chain)
            )
        return json.dumps(content)


def _log_as_json() -> None:
    """Write all log lines and warnings of this process to standard error as JSON."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"level": "INFO", "handlers": ["stderr"]},
        }
    )
    logging.captureWarnings(True)
    # What Python's "Optimization" of logging names: no line says in which thread it was logged.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
