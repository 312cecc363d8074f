"""`misgiving serve` as people start it, without frameworks too, and its middleware."""

import asyncio
import csv
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from bundled import policy_of
from policies import write
from services import started
from standin import picture, sent, with_key

from misgiving.bundle import export_run as exporting
from misgiving.bundle.bundle import Bundle
from misgiving.checkpoint import load
from misgiving.cli.serve import _bundle
from misgiving.files import seal
from misgiving.serve import app as service
from misgiving.serve.middleware import limit_time
from misgiving.serve.problems import ProblemError

FRAMEWORKS = {"torch", "timm", "ray", "onnx", "transformers"}
NOT_LOADED = {"torch", "sklearn", "matplotlib", "pandas", "pyarrow"}
START = """
import atexit, sys
class Absent:
    def find_spec(name, *_):
        if name in {frameworks}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Absent)
atexit.register(lambda: print("loaded:", *{names} & sys.modules.keys()))
from misgiving.cli import run
run()
"""


def test_a_run_is_exported_while_it_is_served(exported, monkeypatch):
    made, copies = {}, lambda run, out, **_: made.update({run: shutil.copytree(exported[1], out)})
    monkeypatch.setattr(exporting, "export_run", copies)
    with _bundle(exported[0], None, 1) as bundle:
        assert bundle.fingerprint == Bundle.load(exported[1]).fingerprint
    assert not made[exported[0]].exists()


def test_arguments_that_cannot_be_used_are_explained(fail, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("key\n")
    Path("names.csv").write_text("nevus,a mole\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for code, reason, *options in (
            (2, "run `misgiving keys add cases.sqlite", "--host", "::"),
            (2, str(port), "--port", port),
            (2, "--max-files", "--max-files", 300),
            (1, "missing.csv", "--cases", "missing.csv"),
            (1, "short: File exists", "--keep-images", "short", "--port", 0),
            (2, "give lines such as MEL,melanoma", "--class-names", "missing.json"),
            (2, "give lines such as MEL,melanoma", "--class-names", "short"),
            (2, "--second-opinion", "--second-opinion", "two=runs/two", "--port", 0),
        ):
            words = ("serve", exported[1], "--store", "cases.sqlite", *options)
            assert reason in fail(code, *words)
    folder = shutil.copytree(exported[1], tmp_path / "bundle")
    write(policy_of(load(exported[0]), guarantee="average"), folder)
    (folder / "checksums.json").unlink()
    seal(folder)
    assert "for batches of at least 50 cases, got 1;" in fail(1, "serve", folder, "--port", 0)
    assert not [*tmp_path.glob("*.sqlite*")]
    fixed = (2, "serve", exported[1], "--port", 0, "--store", "cases.sqlite")
    assert "--audit-share" in fail(*fixed, "--look-again")
    unknown = fail(*fixed, "--class-names", "names.csv")
    assert "--class-names has 'nevus', which is no class" in unknown
    assert str(tmp_path) in fail(1, "serve", tmp_path, "--port", 0)


def test_other_machines_are_admitted_with_a_key_and_answered_without_delay(tmp_path):
    with_key(place := str(tmp_path / "cases.sqlite"), "operate")
    with service.listen("0.0.0.0", 0, location=place) as listener:
        assert service.address(listener).startswith("http://0.0.0.0:")
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_response_may_take_long_but_not_without_a_part_of_it():
    pauses = asyncio.Queue()

    async def app(_, __, send):
        while True:
            await asyncio.sleep(await pauses.get())
            await send({"type": "http.response.body"})

    async def send(_):
        sent.append(loop.time())

    async def main():
        nonlocal loop
        loop = asyncio.get_running_loop()
        for seconds in (0.8, 0.8, 0.8, 60.0):
            pauses.put_nowait(seconds)
        with pytest.raises(ProblemError) as failure:
            await limit_time(app, seconds=2.0)({"type": "http"}, None, send)
        return failure.value.problem.status

    sent, loop = [], None
    assert asyncio.run(main()) == 503
    assert len(sent) == 3


def test_a_bundle_is_served_and_predicts_without_frameworks_and_loads_no_large_library(
    exported, tmp_path
):
    start = START.format(frameworks=FRAMEWORKS, names=NOT_LOADED)
    alone = [sys.executable, "-c", start]
    names = dict.fromkeys(Bundle.load(exported[1]).classes, "long, and with a comma")
    (tmp_path / "names.json").write_text(json.dumps(names))
    options = ["serve", exported[1], "--port", 0, "--store", tmp_path / "cases.sqlite"]
    options += ["--class-names", tmp_path / "names.json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([*alone, *map(str, options)], **pipes) as process:
        url = re.search(r"http://[\d.:]+", process.stderr.readline())[0]
        with httpx.Client(base_url=url, timeout=120) as client:
            case, model = sent(client, picture(0.7)), client.get("/model").json()
            card = model["card"]
        maps = Path(f"/proc/{process.pid}/maps")
        assert not maps.exists() or "libtorch" not in maps.read_text()
        process.send_signal(signal.SIGTERM)
        output, said = process.communicate(timeout=120)
    assert (process.returncode, output) == (0, "loaded:\n")
    assert "stopped" in said
    assert "Traceback" not in said
    assert model["class_names"] == names
    bundle = Bundle.load(exported[1])
    (expected,) = bundle.decide([picture(0.7)], ["image"])
    assert (case["decision"], case["reason"]) == (expected.decision, expected.reason)
    assert case["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    for name in ("error_probability", "predicted_loss", "acceptance_score", "ood_score"):
        assert case[name] == pytest.approx(getattr(expected, name), rel=1e-4), name
    assert (case["model_fingerprint"], card) == (bundle.fingerprint, bundle.card)
    (tmp_path / "image.png").write_bytes(picture(0.7))
    out = tmp_path / "answers.csv"
    command = [*alone, "predict", exported[1], tmp_path / "image.png", "--out", out]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    (row,) = csv.DictReader(out.read_text().splitlines())
    assert row["decision"] == case["decision"]
