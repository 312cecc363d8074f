"""Services in processes of their own, and a PostgreSQL server from the system's packages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import make_url

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
START = f"import sys; sys.path[:0] = {sys.path!r}; from standin import serve; serve(*sys.argv[1:])"


@contextmanager
def standin_at(place, **settings):
    """Start a service of the stand-in; yields the process and a client of it, and kills it."""
    command = [sys.executable, "-c", START, place, json.dumps(settings)]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        url, alone = process.stdout.readline().strip(), httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=url, timeout=120, limits=alone) as client:
            yield process, client


@contextmanager
def started(command, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, text=True, **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def address(client):
    """Host and port of the service of a client."""
    return client.base_url.host, client.base_url.port


@contextmanager
def postgresql():
    """URL of a new, empty database; the server ends with the block."""
    if not PLACES:
        pytest.skip("PostgreSQL is not installed: there is no /usr/lib/postgresql/*/bin")
    folder, user = Path(tempfile.mkdtemp(prefix="misgiving-postgresql-")), {}
    if os.getuid() == 0:  # the server refuses root
        shutil.chown(folder, "postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}

    def run(program, *arguments):
        command = [PLACES[-1] / program, "-D", folder / "data", *arguments]
        subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL, **user)

    initdb = "-A trust -U misgiving --no-sync -E UTF8"
    options = f"-c listen_addresses='' -k {folder}"
    try:
        run("initdb", "--no-locale", *initdb.split())
        run("pg_ctl", "-w", "-l", folder / "log", "-o", options, "start")
        yield f"postgresql://misgiving@/postgres?host={folder}"
        run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def frozen(url):
    """Stop every process of the server, and continue them after the block."""
    folder = Path(make_url(url).query["host"])
    with psycopg.connect(url) as connection:
        others = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        pids = [pid for (pid,) in connection.execute(others)]
    pids.append(int((folder / "data" / "postmaster.pid").read_text().split()[0]))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def emptied(url):
    """The same database without its tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return url
