"""Training: an epoch from the prepared cache, its memory, and Eq. 1 over all pairs of a batch.

    python benchmarks/training.py [--rounds 3] [--processor-time]

*Epoch*: `train_epoch` reads the memory-mapped cache in the sampler's order, augments, moves to the
device, steps and reports; the other side takes as many steps of the same joint model on one batch
in memory. The ratio is that of the rates.

*Memory* (Linux): epoch and bare steps run in a process of their own each, whose anonymous memory
is sampled: pages of the memory-mapped cache, which the system may drop at any time, do not count.
The epoch reads images from all of the cache.

*Eq. 1*: forward and backward, against the formula on the matrix of all pairs, in processor time. At
65,536 samples, whose matrix would not fit, the peak memory is measured.

With --processor-time and one thread (OMP_NUM_THREADS=1), a busy machine disturbs an epoch less.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from side_by_side import Comparison, Reading, alternate
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from misgiving.data.cache import ImageSet
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.losses import ranking_loss
from misgiving.models.joint import JointClassifier
from misgiving.training.config import TrainingConfig
from misgiving.training.loop import objective_of, train_epoch
from misgiving.training.processes import start_fabric
from misgiving.training.resume import TrainingState

CLASSES = 8
CACHED, CACHED_SIZE, STEPS = 25_000, 64, 60  # images and their side; steps that are observed
EPOCH_MEMORY = 1000.0  # MB above that of bare steps
RANKED, RANKED_ALONE = (64, 256, 512), 65_536  # samples
RANKING_MEMORY = 64.0  # MiB
MIB = 1024 * 1024

RankingLoss = Callable[[Tensor, Tensor], Tensor]


class Setting(NamedTuple):
    """A backbone at its size, how many images are in a step, and the bound on the ratio."""

    image_size: int
    batch_size: int
    steps: int
    bound: float


SETTINGS = {
    "vgg16": Setting(224, 8, 2, 0.9),
    "tf_efficientnet_lite0": Setting(128, 32, 6, 0.8),
}


def main() -> None:
    """Report all parts, or be one of the sides of the memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SETTINGS, help="one of them alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--processor-time", action="store_true", help="not that of the clock")
    parser.add_argument("--side", choices=["epoch", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(peak(lambda: run_side(options.side, options.cache)))
        return
    report_ranking_memory()  # before anything else uses memory
    report_ranking(5 * options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for backbone in [options.backbone] if options.backbone else SETTINGS:
            compare_epoch(backbone, options, Path(folder))
        report_epoch_memory(Path(folder) / "images.npy")


def compare_epoch(backbone: str, options: argparse.Namespace, folder: Path) -> None:
    """Report one backbone."""
    size, count, steps, bound = SETTINGS[backbone]
    config = TrainingConfig(
        batch_size=count, learning_rate=1e-5, device=options.device, precision=options.precision
    )
    images = image_set(folder / f"{backbone}.npy", count * steps, size)
    clock = time.process_time if options.processor_time else time.perf_counter
    Comparison(
        what=f"epoch of {backbone}, {steps} steps of {count} images of {size} pixels",
        against="bare steps of the same model",
        measure="times as fast",
        bound=bound,
        rounds=alternate(*sides(backbone, config, images), rounds=options.rounds, clock=clock),
        notes=(f"{torch.get_num_threads()} threads", config.precision),
    ).report()


def image_set(path: Path, count: int, image_size: int) -> ImageSet:
    """Random bytes in a file, mapped as the cache maps it."""
    shape, random = (image_size, image_size, 3), np.random.default_rng(0)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(count):
            file.write(random.bytes(3 * image_size**2))
    return mapped(path)


def mapped(path: Path) -> ImageSet:
    """The images of such a file."""
    images = np.load(path, mmap_mode="r")
    count = len(images)
    names = tuple(map(str, range(count)))
    return ImageSet(
        images=images,
        rows=np.arange(count),
        labels=np.arange(count) % CLASSES,
        ids=names,
        groups=names,
        hashes=names,
        classes=tuple(map(str, range(CLASSES))),
    )


def sides(
    backbone: str, config: TrainingConfig, images: ImageSet
) -> tuple[Callable[[], None], Callable[[], None]]:
    """An epoch, and as many bare steps; both continue from the same weights."""
    torch.manual_seed(0)
    model = JointClassifier(backbone, CLASSES, pretrained=False)
    groups = [{"params": list(model.parameters()), "initial_lr": config.learning_rate}]
    optimizer = Adam(groups, fused=True)
    fabric = start_fabric(config.device, precision=config.precision)
    module, wrapped = fabric.setup(model, optimizer)
    objective = objective_of(config, images, fabric.device)
    state = TrainingState(model=model, optimizer=wrapped)
    augmentation = AugmentationSettings()
    size = images.images.shape[1]
    in_memory = torch.rand(config.batch_size, 3, size, size, device=fabric.device)
    labels = torch.randint(CLASSES, (config.batch_size,), device=fabric.device)

    def epoch() -> None:
        state.step = 0
        steps = train_epoch(fabric, module, state, images, config, objective, augmentation)
        deque(steps, maxlen=0)

    def bare_steps() -> None:
        module.train()
        for _ in range(len(images) // config.batch_size):
            logits, predicted_losses, _ = module(in_memory)
            total = objective(logits, predicted_losses, labels).total
            wrapped.zero_grad()
            fabric.backward(total)
            wrapped.step()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()

    return epoch, bare_steps


def report_epoch_memory(cache: Path) -> None:
    """Compare the peaks of two processes."""
    image_set(cache, CACHED, CACHED_SIZE)
    epoch, bare = (in_child(side, cache) for side in ("epoch", "bare"))
    Reading(
        what=f"peak memory of training from {CACHED} images above that of bare steps",
        values=[(epoch - bare) / 1e6],
        unit="MB",
        bound=EPOCH_MEMORY,
        notes=(
            f"training {epoch / MIB:.0f} MiB, bare steps {bare / MIB:.0f} MiB",
            f"the cache holds {CACHED * 3 * CACHED_SIZE**2 / MIB:.0f} MiB",
        ),
    ).report()


def in_child(side: str, cache: Path) -> int:
    """Peak memory of one side, in bytes."""
    command = [sys.executable, __file__, "--side", side, "--cache", str(cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def run_side(side: str, cache: Path) -> None:
    """An epoch of images drawn from all of the cache, or bare steps."""
    config = TrainingConfig(batch_size=64, learning_rate=1e-5, device="cpu")
    images = mapped(cache)
    spread = np.linspace(0, len(images) - 1, STEPS * config.batch_size).astype(np.int64)
    epoch, bare_steps = sides("tf_efficientnet_lite0", config, images.select(spread))
    (epoch if side == "epoch" else bare_steps)()


def anonymous() -> int:
    """Bytes of resident memory that no file stands behind, as Linux tells them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = re.search(r"RssAnon:\s+(\d+)", status)
    if kilobytes is None:
        raise OSError("/proc/self/status has no line RssAnon; this needs Linux 4.5 or newer")
    return 1024 * int(kilobytes[1])


def peak(work: Callable[[], Any], *, every: float = 0.002) -> int:
    """The most anonymous memory seen, looking every so many seconds while the work runs."""
    seen, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(*seen, anonymous())


def report_ranking_memory() -> None:
    """Report the peak memory of Eq. 1 over the pairs of many samples, above that before."""
    rank(ranking_loss, 1024)  # one-time allocations are not counted
    before, started = anonymous(), time.process_time()
    taken = peak(partial(rank, ranking_loss, RANKED_ALONE), every=0.0005) - before
    Reading(
        what=f"memory of the ranking loss of {RANKED_ALONE} samples",
        values=[taken / MIB],
        unit="MiB",
        bound=RANKING_MEMORY,
        notes=(
            f"seconds {time.process_time() - started:.3g}",
            f"the matrix of pairs alone would take {4 * RANKED_ALONE**2 / MIB:.0f} MiB",
        ),
    ).report()


def report_ranking(rounds: int) -> None:
    """Report each size; the difference is that of the loss, relative."""
    # glibc keeps freed memory once a larger block was freed, as training frees its activations;
    # without this, page faults decide which side of a comparison wins.
    torch.empty(30 * MIB, dtype=torch.uint8)
    for size in RANKED:
        losses = [loss(*losses_of(size)).item() for loss in (ranking_loss, listed_pairs)]
        times = 4096 // size
        Comparison(
            what=f"ranking loss of {size} samples, forward and backward",
            against="the matrix of pairs",
            measure="times the time",
            bound=1.1,
            rounds=alternate(
                partial(rank, ranking_loss, size, times),
                partial(rank, listed_pairs, size, times),
                rounds=rounds,
                clock=time.process_time,
            ),
            notes=(f"relative difference {abs(losses[0] / losses[1] - 1):.1e}",),
        ).report()


def losses_of(size: int) -> tuple[Tensor, Tensor]:
    """Predicted and true losses, some of them tied."""
    random = torch.Generator().manual_seed(size)
    predicted = torch.randn(size, generator=random)
    return predicted, torch.rand(size, generator=random).round(decimals=3)


def rank(loss: RankingLoss, size: int, times: int = 1) -> None:
    """Run forward and backward so many times."""
    predicted, true = losses_of(size)
    predicted.requires_grad_()
    for _ in range(times):
        loss(predicted, true).backward()


def listed_pairs(predicted: Tensor, true: Tensor) -> Tensor:
    """The mean over all ordered pairs of two samples (paper, Eq. 1)."""
    order = torch.where(true[:, None] > true, 1.0, -1.0)
    penalties = F.relu(1.0 - order * (predicted[:, None] - predicted))
    itself = torch.eye(len(true), dtype=torch.bool)
    return penalties.masked_fill(itself, 0.0).sum() / (len(true) * (len(true) - 1))


if __name__ == "__main__":
    main()
