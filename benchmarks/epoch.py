"""A training epoch from the prepared cache against bare steps of the same model.

    python benchmarks/epoch.py [--backbone tf_efficientnet_lite0] [--rounds 5] [--processor-time]

Ours is `train_epoch`: it reads the memory-mapped cache in the sampler's order, augments, moves to
the device, steps and reports. The other side takes as many steps of the same joint model on one
batch in memory. The ratio is that of the rates.
With --processor-time and one thread (OMP_NUM_THREADS=1), a busy machine disturbs less.
"""

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from side_by_side import Comparison, alternate
from torch.optim import Adam

from misgiving.data.cache import ImageSet
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.models.joint import JointClassifier
from misgiving.training.config import TrainingConfig
from misgiving.training.loop import objective_of, train_epoch
from misgiving.training.processes import start_fabric
from misgiving.training.resume import TrainingState

CLASSES = 8


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
    """Time both sides in turn on every backbone that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SETTINGS, help="one of them alone")
    parser.add_argument("--batch-size", type=int, help="images in a step")
    parser.add_argument("--steps", type=int, help="in an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto")
    parser.add_argument("--processor-time", action="store_true", help="not that of the clock")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for backbone in [options.backbone] if options.backbone else SETTINGS:
            compare(backbone, options, Path(folder))


def compare(backbone: str, options: argparse.Namespace, folder: Path) -> None:
    """Report one backbone."""
    setting = SETTINGS[backbone]
    count, steps = options.batch_size or setting.batch_size, options.steps or setting.steps
    config = TrainingConfig(
        batch_size=count, learning_rate=1e-5, device=options.device, precision=options.precision
    )
    images = image_set(folder / f"{backbone}.npy", count * steps, setting.image_size)
    clock = time.process_time if options.processor_time else time.perf_counter
    Comparison(
        what=f"epoch of {backbone}, {steps} steps of {count} images of {setting.image_size} pixels",
        against="bare steps of the same model",
        measure="times as fast",
        bound=setting.bound,
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


if __name__ == "__main__":
    main()
