"""The application behind a socket, by uvicorn."""

import socket
from contextlib import suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from misgiving.allocator import return_freed_memory
from misgiving.errors import UsageError
from misgiving.serve.authentication import is_loopback
from misgiving.serve.connections import CONNECTIONS, LimitedConnection
from misgiving.serve.settings import Settings
from misgiving.serve.telemetry import log_as_json

OPEN_FILES = 4096  # of which connections, the database and image files take a part
BACKLOG = 256  # connections that are accepted before any of them is looked at
LAST_PORT = 65535


def listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Open a listening socket.

    Raises:
        UsageError: Other machines could connect without a key, or the socket cannot be opened.
    """
    if not has_key and not is_loopback(host):
        raise UsageError(
            f"`host` {host} lets other machines connect, which needs a key: give `api_key_file` or "
            "MISGIVING_API_KEY"
        )
    if not 0 <= port <= LAST_PORT:
        raise UsageError(f"`port` must be from 0 to {LAST_PORT}, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port} ({error.strerror or error}); choose another "
            "host or port"
        ) from error


def address(listener: socket.socket) -> str:
    """The URL for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_key(file: Path | None, variable: str | None) -> str | None:
    """The API key from a file, else from the environment variable's value, else None."""
    if file is None:
        return variable
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UsageError(f"`api_key_file` {file}: cannot be read ({reason})") from error
    if not key:
        raise UsageError(f"`api_key_file` {file}: is empty; write a key into it")
    return key


def run(app: FastAPI, listener: socket.socket, settings: Settings) -> None:
    """Serve until the process is told to stop, and then finish the requests in progress."""
    log_as_json(names=settings.log_names)
    return_freed_memory()
    _allow_open_files()
    config = uvicorn.Config(
        app,
        http=LimitedConnection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        backlog=BACKLOG,
        timeout_graceful_shutdown=round(settings.timeout) + 1,
    )
    with threadpool_limits(1, "blas"):  # more would wait for each other and for the graph's threads
        uvicorn.Server(config).run(sockets=[listener])


def _allow_open_files() -> None:
    """Raise the limit on open files as far as the system lets a process do so itself."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < enough:
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
