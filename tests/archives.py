"""An Orthanc archive in a process of its own, from the system's packages."""

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from socket import create_server

import httpx
import pytest
from waiting import until

ORTHANC = shutil.which("Orthanc", path=os.defpath + ":/usr/sbin")


@contextmanager
def orthanc_at(folder):
    """Start an archive; yields a client of it, and kills it."""
    if ORTHANC is None:
        pytest.skip("Orthanc is not installed")
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        **{"StorageDirectory": f"{folder}/db", "IndexDirectory": f"{folder}/db", "HttpPort": port},
        **{"DicomServerEnabled": False, "AuthenticationEnabled": False, "Plugins": []},
    }
    (folder / "orthanc.json").write_text(json.dumps(options))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([ORTHANC, folder / "orthanc.json"], **quiet)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            until(lambda: answers(client))
            yield client
    finally:
        process.kill()
        process.communicate()


def answers(client):
    try:
        return client.get("/system").is_success
    except httpx.TransportError:
        return False


def report_ids(archive):
    query = {"Level": "Instance", "Query": {"Modality": "SR"}}
    return archive.post("/tools/find", json=query).json()
