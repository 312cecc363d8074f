"""Each extra in an environment of its own, with the lines of the documentation that name it."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from corpus import HEIC
from pydicom.data import get_testdata_file
from services import postgresql, started
from standin import sent

pytestmark = pytest.mark.extras

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMAND = re.compile(r"^misgiving (.+?)(?:  +#.*)?$", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Environment:
    """A new environment with these extras, and a folder to work in."""

    def __init__(self, place, extras):
        self.programs, self.folder = place / "venv" / "bin", place / "work"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
        package = f"{ROOT}[{extras}]" if extras else str(ROOT)
        self.run("pip", "install", "--quiet", "--no-compile", package)
        where = self.run("python", "-c", "import misgiving; print(misgiving.__file__)")
        assert where.startswith(str(place))

    def run(self, program, *words, code=0):
        """Output of a program that ends with this code."""
        command = [self.programs / program, *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def misgiving(self, line, **options):
        return self.run("misgiving", *shlex.split(line), **options)

    def python(self, page):
        """Run all blocks of Python of a page, and say which frameworks they have loaded."""
        loaded = "import sys; print({'torch', 'onnxruntime'} & {*sys.modules})"
        return self.run("python", "-c", "\n".join([*BLOCK.findall(page.read_text()), loaded]))

    def serve(self, line):
        """Serve as this line says, and decide on an image."""
        command = [self.programs / "misgiving", *shlex.split(line), "--port", "0"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": self.folder}
        with started(list(map(str, command)), **pipes) as process:
            said = iter(process.stderr.readline, "")
            url = re.search(r"http://[\d.:]+", next(line for line in said if "http://" in line))[0]
            assert sent(httpx.Client(base_url=url, timeout=120)) is not None

    def needs(self, extra, *lines):
        """These commands fail in one line that names the extra."""
        for line in lines:
            said = self.misgiving(line, code=1)
            assert f"the extra {extra}" in said.splitlines()[-1]


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setenv("MPLBACKEND", "agg")
    yield lambda extras: Environment(tmp_path, extras)
    shutil.rmtree(tmp_path / "venv")


def test_without_an_extra_predictions_are_calibrated_and_images_checked(environment, exported):
    plain, bundle = environment(""), exported[1]
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    logits = random.normal(size=(600, 3)) + 3 * np.eye(3)[labels]
    rows = [f"{label},{a},{b},{c}" for label, (a, b, c) in zip(labels, logits, strict=True)]
    for name in ("predictions", "new-predictions", "labelled-predictions"):
        text = "\n".join(["label,logit_cat,logit_dog,logit_owl", *rows])
        (plain.folder / f"{name}.csv").write_text(text)
    page = DOCS / "how_to" / "own_predictions.md"
    for line in COMMAND.findall(page.read_text()):
        plain.misgiving(line)
    shutil.rmtree(plain.folder / "policy")
    assert "set()" in plain.python(page)
    plain.run("python", DOCS / "gallery" / "five_percent.py")
    for line in ("data sample photos", "data check folder:photos", "data prepare folder:photos"):
        plain.misgiving(line)
    plain.needs("train", "train folder:photos --out run", "reproduce --out paper")
    plain.needs("serve", f"serve {bundle}", f"predict {bundle} photos/1 --out decisions.csv")
    said = plain.run("python", "-c", "from misgiving import train", code=1)
    assert "the extra `train`" in said.splitlines()[-1]


def test_train_is_enough_for_the_tutorial_up_to_the_service(environment):
    training = environment("train")
    *lines, serve = COMMAND.findall((DOCS / "tutorials" / "developer.md").read_text())
    assert serve == "serve photos.bundle"
    for line in lines:
        training.misgiving(line)
    training.python(DOCS / "tutorials" / "engineer.md")
    for name in ("joint_training", "hugging_face_model", "ood_table"):
        training.run("python", ROOT / "examples" / f"{name}.py")
    training.needs("serve", serve)
    training.needs("ray", "reproduce --out paper --ray auto")


def test_serve_is_enough_for_a_bundle(environment, exported):
    serving, bundle = environment("serve"), exported[1]
    serving.misgiving("data sample photos")
    serving.misgiving(f"predict {bundle} photos/1 --out decisions.csv")
    serving.serve(f"serve {bundle}")
    serving.needs("postgresql", f"serve {bundle} --store postgresql://me@/cases")
    serving.needs("train", "train folder:photos --out run")


def test_heif_and_dicom_are_enough_to_read_their_files(environment):
    reading = environment("heif,dicom")
    for name in ("a", "b"):
        (reading.folder / "photos" / name).mkdir(parents=True)
    shutil.copy(HEIC, reading.folder / "photos" / "a")
    for name in ("CT_small.dcm", "J2K_pixelrep_mismatch.dcm"):
        shutil.copy(get_testdata_file(name, download=False), reading.folder / "photos" / "b")
    table = reading.misgiving("data check folder:photos")
    assert re.search(r"images\W+3\b", table), table
    assert re.search(r"unreadable files\W+0\b", table), table
    reading.needs("train", "train folder:photos --out run")


def test_ray_is_enough_for_a_reproduction(environment):
    cluster = environment("ray")
    settings = "--trials 1 --model vanilla --experiment generalization --epochs 1 --ray auto"
    cluster.misgiving(f"reproduce --out paper {settings}")
    assert len([*(cluster.folder / "paper" / "units").rglob("results.csv")]) == 1


def test_all_serves_with_postgresql(environment, exported):
    everything = environment("all")
    with postgresql() as url:
        everything.serve(f"serve {exported[1]} --store '{url}'")
