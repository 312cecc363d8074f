"""Services in processes of their own."""

import http.client
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent


@contextmanager
def standin_at(place, **settings):
    """Start a service of the stand-in; yields the process and its host and port, and kills it."""
    options = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    command = [sys.executable, str(HERE / "serve_standin.py"), place, *options]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        yield process, split(process.stdout.readline())


@contextmanager
def started(command, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def split(line):
    """Host and port of the URL in a line."""
    found = urlsplit(next(word for word in line.split() if word.startswith("http")).rstrip(";"))
    return found.hostname, found.port


def ask(where, method, path, body=None, kind="image/png"):
    """Status, headers and JSON of a response."""
    connection = http.client.HTTPConnection(*where, timeout=120)
    connection.request(method, path, body, {"Content-Type": kind} if body and kind else {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, json.loads(content)
