import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from waiting import until

from misgiving.errors import DataError, UsageError
from misgiving.reproduction import ray as cluster
from misgiving.reproduction.config import Unit
from misgiving.reproduction.runner import reproduce_units

MARK = "MISGIVING_TEST_OF_RAY"  # inherited by every process that a test has started
HOLD = """
import ray
context = ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print(context.address_info["gcs_address"], flush=True)
input()
"""


@pytest.fixture(scope="module")
def environment():
    """With a short folder of Ray's own: the names of its sockets must not be long."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    yield {
        **os.environ,
        MARK: folder,
        "RAY_TMPDIR": folder,
        "RAY_AUTH_MODE": "disabled",
        "XDG_CACHE_HOME": f"{folder}/cache",
    }
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def address(environment):
    """The address of a Ray cluster of one worker."""
    command = [sys.executable, "-c", HOLD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as holder:
        try:
            yield holder.stdout.readline().strip()
        finally:
            holder.communicate("\n")


def started(environment):
    """Processes that live and were started with this environment, and their titles."""
    mark = f"{MARK}={environment[MARK]}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (place / "environ").read_bytes().split(b"\0"):
                yield int(place.name), (place / "cmdline").read_bytes().decode()
        except OSError:  # it has ended
            continue


def unfinished(out):
    return [path for path in out.rglob("*.partial") if path.is_dir()]


needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks into /proc")


@needs_proc
@pytest.mark.soak  # two minutes of two cores
def test_a_cluster_whose_worker_is_killed_gives_the_files_of_one_process(
    environment, address, small, check_small, tmp_path, monkeypatch
):
    folder = tmp_path / Unit("ood_detection", 0, "vanilla").folder

    def kill_worker():
        until(lambda: unfinished(folder.parent))
        (busy,) = [pid for pid, title in started(environment) if "ray::ood_detection" in title]
        os.kill(busy, signal.SIGKILL)
        assert not folder.exists()

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_worker)
        reproduce_units(small, tmp_path, run=cluster.on_ray(address, threads=1))
    killing.result()
    check_small(tmp_path)


@needs_proc
@pytest.mark.soak  # a minute of two cores
def test_ctrl_c_leaves_neither_a_process_nor_a_half_written_unit(
    environment, misgiving, tmp_path, monkeypatch
):
    mine = {**environment, MARK: str(tmp_path)}
    for name, value in mine.items():
        monkeypatch.setenv(name, value)

    def interrupt():
        until(lambda: unfinished(tmp_path / "out"))
        for pid in (*(pid for pid, _ in started(mine)), os.getpid()):  # as a terminal does
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    command = ["reproduce", "--trials", "1", "--models", "vanilla", "--epochs", "500"]
    command += ["--experiment", "generalization"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(interrupt)
        code, _, errors = misgiving(*command, "--ray", "auto", "--out", tmp_path / "out")
    assert errors.splitlines()[-1].startswith("error: stopped;")
    assert code == 130
    assert unfinished(tmp_path / "out") == []
    until(lambda: not list(started(mine)))


def test_where_there_is_no_cluster_and_no_ray_it_is_said(fail, monkeypatch, tmp_path):
    for address in ("nowhere", "127.0.0.1:1"):
        with pytest.raises(UsageError, match=address), cluster._cluster(address):
            pass
    monkeypatch.delitem(sys.modules, "misgiving.reproduction.ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ("reproduce", "--out", tmp_path, "--ray", "auto")
    assert "the extra ray" in fail(1, *words)


@pytest.mark.parametrize(
    ("threads", "asked", "device", "share"),
    [
        (4, None, "cpu", 0.0),
        (2, None, "cuda", 1.0),
        (2, None, "auto", 1.0),
        (2, 0.5, "cuda", 0.5),
        (4, None, "cuda", None),  # no single node has both
    ],
)
def test_a_unit_takes_a_gpu_where_its_device_may_be_one_and_a_node_has_room(
    threads, asked, device, share
):
    nodes = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]
    with pytest.raises(UsageError) if share is None else nullcontext():
        assert cluster.gpus_of_unit(nodes, threads, asked, device) == share
    assert cluster.gpus_of_unit(nodes[:1], 4, None, "auto") == 0.0


def test_a_node_with_another_folder_data_or_code_is_refused(tmp_path):
    with pytest.raises(DataError):
        cluster.await_unit(tmp_path / "unit", {"unit": "another's"}, seconds=0.0)
    mine = {"code": "a", "images": ["b"], "training": {"epochs": 1}}
    cluster.check_worker(dict(mine), mine)
    with pytest.raises(DataError, match="code, images"):
        cluster.check_worker({**mine, "code": "c", "images": []}, mine)
