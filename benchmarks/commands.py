"""Work as our commands do it against the same work as users of other libraries do it.

    python benchmarks/commands.py [--only CASE] [--rounds 5] [--files 1500]

Each side has a process of its own, since a command keeps the memory that it frees and a program
that only imports a library does not (`keep_freed_memory`). A joint step is a forward pass with the
taps and the loss estimator, Eqs. 1 and 2, the backward pass and Adam; a plain one is timm's model,
cross-entropy, its backward pass and the same Adam, on images that are already normalised. The
processes take turns; notes give the peak of resident memory of each. A side with `kept` in its name
is theirs with our allocator setting, which shows what the rest of ours costs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import timm
import torch
from inputs import untrained, write_pictures
from side_by_side import Comparison, Measure, alternate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from misgiving.bundle.decide_files import decide_files, load_model
from misgiving.bundle.export_run import export_run
from misgiving.checkpoint import load, save
from misgiving.data.datasets import unlabelled_images
from misgiving.data.decoding import read_bytes
from misgiving.losses import joint_objective
from misgiving.models.joint import JointClassifier
from misgiving.models.optimised import folded
from misgiving.predictions.inference import write_compared_graph
from misgiving.scores.odin import Odin, score_grid
from misgiving.training.allocator import MALLOC_SETTINGS, keep_freed_memory

CLASSES = 8
OF_FILES = ("run", "bundle")
DISTINCT = 1500  # files; more are links to them
Work = Callable[[], Any]


class Case(NamedTuple):
    """A comparison and its bound, and the names of its sides."""

    what: str
    against: str
    candidate: str
    reference: str
    measure: Measure
    bound: float


def _step(side: Callable[..., Work], backbone: str, size: int, count: int) -> Work:
    torch.manual_seed(0)
    images, labels = torch.rand(count, 3, size, size), torch.randint(CLASSES, (count,))
    return side(backbone, images, labels)


def joint_step(backbone: str, images: Tensor, labels: Tensor) -> Work:
    """A step of the joint model."""
    model = JointClassifier(backbone, CLASSES, pretrained=False).train()

    def total() -> Tensor:
        output = model(images)
        return joint_objective(output.logits, output.predicted_losses, labels).total

    return step(model, total)


def plain_step(backbone: str, images: Tensor, labels: Tensor) -> Work:
    """A step of the classifier alone."""
    model = timm.create_model(backbone, num_classes=CLASSES, drop_rate=0.4).train()
    model.to(memory_format=torch.channels_last)
    normalised = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
    return step(model, lambda: F.cross_entropy(model(normalised), labels))


def step(model: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """One step of Adam on a loss."""
    optimizer = Adam(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


def _model_and_images() -> tuple[JointClassifier, torch.Tensor]:
    torch.manual_seed(0)
    model = JointClassifier("tf_efficientnet_lite0", num_classes=CLASSES, pretrained=False).eval()
    return model, torch.rand(128, 3, 128, 128)


def _our_odin() -> Work:
    model, images = _model_and_images()
    point = Odin(temperature=1000.0, epsilon=0.0014)
    return lambda: score_grid(folded(model, 128).classify, images.split(64), [point])[point]


def _their_odin() -> Work:
    from pytorch_ood.detector import ODIN

    model, images = _model_and_images()
    detector = ODIN(model.classify, temperature=1000.0, eps=0.0014)
    return lambda: np.concatenate([-detector(some).numpy() for some in images.split(64)])


def _our_predict(model: str) -> Work:
    folder = Path(os.environ["BENCHMARK_FILES"])

    def work() -> None:
        names = unlabelled_images([folder / "images"], name="images").ids
        loaded = load_model(folder / model, count=len(names), device="cpu")
        with TemporaryDirectory() as parts:
            decide_files(loaded, names, Path(parts))

    return work


def _their_predict() -> Work:
    """The graph alone, after reading, decoding and preprocessing each file in turn."""
    folder = Path(os.environ["BENCHMARK_FILES"])
    paths = sorted((folder / "images").iterdir())
    checkpoint = load(folder / "run")
    session = onnxruntime.InferenceSession(folder / "graph.onnx")
    read = checkpoint.preprocessing.from_file

    def work() -> None:
        for start in range(0, len(paths), 64):
            squares = np.stack([read(read_bytes(path), str(path)) for path in paths[start:][:64]])
            images = np.ascontiguousarray(squares.transpose(0, 3, 1, 2), dtype=np.float32) / 255
            session.run(None, {"images": images})

    return work


SIDES: dict[str, Callable[[], Work]] = {
    "our small step": partial(_step, joint_step, "tf_efficientnet_lite0", 128, 64),
    "their small step": partial(_step, plain_step, "tf_efficientnet_lite0", 128, 64),
    "our large step": partial(_step, joint_step, "vgg16", 224, 8),
    "their large step": partial(_step, plain_step, "vgg16", 224, 8),
    "our odin": _our_odin,
    "their odin": _their_odin,
    "our run": partial(_our_predict, "run"),
    "our bundle": partial(_our_predict, "bundle"),
    "their predict": _their_predict,
}
SMALL, LARGE = "64 images of 128 pixels", "8 images of 224 pixels"
PLAIN, KEPT = "the step of timm's classifier alone", ", with our allocator setting"
TIMES, FAST = "times the time", "times as fast"
CASES = {
    "small": Case(
        f"joint step of tf_efficientnet_lite0, {SMALL}, in a command",
        *(PLAIN, "our small step", "their small step", TIMES, 0.8),
    ),
    "small kept": Case(
        f"joint step of tf_efficientnet_lite0, {SMALL}, in a command",
        *(PLAIN + KEPT, "our small step", "their small step kept", TIMES, 1.05),
    ),
    "large": Case(
        f"joint step of vgg16, {LARGE}, in a command",
        *(PLAIN, "our large step", "their large step", TIMES, 0.85),
    ),
    "large kept": Case(
        f"joint step of vgg16, {LARGE}, in a command",
        *(PLAIN + KEPT, "our large step", "their large step kept", TIMES, 1.05),
    ),
    "odin": Case(
        "ODIN at one temperature and epsilon, 128 images of 128 pixels, in a command",
        *("pytorch-ood's ODIN", "our odin", "their odin", FAST, 2.0),
    ),
    "run": Case(
        "predicting {files} JPEG files by a run",
        *("decoding, preprocessing and onnxruntime in turn", "our run", "their predict"),
        *(FAST, 0.85),
    ),
    "bundle": Case(
        "predicting {files} JPEG files by a bundle",
        *("decoding, preprocessing and onnxruntime in turn", "our bundle", "their predict"),
        *(FAST, 0.9),
    ),
}


class Side:
    """A process that does its work whenever it is asked to."""

    def __init__(self, name: str) -> None:
        keeps_memory = name.startswith("our ") or name.endswith(" kept")
        environment = {key: of for key, of in os.environ.items() if key not in MALLOC_SETTINGS}
        command = [sys.executable, __file__, "--side", name.removesuffix(" kept")]
        self._process = subprocess.Popen(
            [*command, *(["--kept"] if keeps_memory else [])],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.megabytes = 0.0

    def work(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("again\n")
        self._process.stdin.flush()
        self.megabytes = float(self._process.stdout.readline())

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    """Compare, or be one of the sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=DISTINCT, help="to predict")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        be(options.side, keeps_memory=options.kept)
        return
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["BENCHMARK_FILES"] = os.environ["XDG_CACHE_HOME"] = temporary
        for name in options.only or CASES:
            if name in OF_FILES:
                write_files(Path(temporary), options.files)
            case = CASES[name]
            compare(case._replace(what=case.what.format(files=options.files)), options.rounds)


def be(side: str, *, keeps_memory: bool) -> None:
    """Do the work at each line of the input, and answer with the peak memory so far in MB."""
    if keeps_memory:
        keep_freed_memory()
    work = SIDES[side]()
    for _ in sys.stdin:
        work()
        print(_peak(), flush=True)


def _peak() -> float:
    """Peak of resident memory in MB; `ru_maxrss` would be at least that of the parent."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    words = next(line.split() for line in lines if line.startswith("VmHWM"))
    return int(words[1]) * 1024 / 1e6


def write_files(folder: Path, count: int) -> None:
    """Image files, a run, its graph and its bundle."""
    if (folder / "run").exists():
        return
    paths = write_pictures(folder / "images", count=min(count, DISTINCT), size=(600, 450))
    for number in range(DISTINCT, count):
        os.link(paths[number % DISTINCT], folder / "images" / f"{number:06d}.jpg")
    checkpoint = untrained("tf_efficientnet_lite0", 128)
    save(folder / "run", checkpoint)
    write_compared_graph(checkpoint, folder / "graph.onnx")
    export_run(folder / "run", folder / "bundle")


def compare(case: Case, rounds: int) -> None:
    """Report one case."""
    with ExitStack() as stack:
        candidate, reference = (
            stack.enter_context(Side(name)) for name in (case.candidate, case.reference)
        )
        times = alternate(candidate.work, reference.work, rounds=rounds)
    notes = [f"peak memory: ours {candidate.megabytes:.0f} MB, theirs {reference.megabytes:.0f} MB"]
    if "odin" in case.candidate:
        off = np.abs(_our_odin()() - _their_odin()()).max()
        notes.append(f"largest difference of a score {off:.1e}")
    Comparison(
        what=case.what,
        against=case.against,
        measure=case.measure,
        bound=case.bound,
        rounds=times,
        notes=tuple(notes),
    ).report()


if __name__ == "__main__":
    main()
