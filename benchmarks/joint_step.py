"""A joint training step against the step of the plain timm classifier: what the estimator costs.

    python benchmarks/joint_step.py [--backbone vgg16] [--rounds 5] [--processor-time]

Ours is a forward pass with the taps and the loss estimator, Eq. 1 over all pairs and Eq. 2, the
backward pass and Adam; theirs is `timm.create_model`, cross-entropy, its backward pass and Adam.
Both take the same batch in the same precision and memory format, and the same implementation of
Adam. Theirs gets its images normalised and with the channels last; ours does both in the step.
With --processor-time and one thread (OMP_NUM_THREADS=1), a busy machine disturbs less.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from side_by_side import Comparison, alternate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from misgiving.losses import joint_objective
from misgiving.models.joint import JointClassifier

CLASSES = 8


class Setting(NamedTuple):
    """A backbone at its size, how many images are in a step, and the bound on the ratio."""

    image_size: int
    batch_size: int
    bound: float


SETTINGS = {"vgg16": Setting(224, 8, 1.03), "tf_efficientnet_lite0": Setting(128, 32, 1.06)}


def main() -> None:
    """Time both sides in turn on every backbone that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", choices=SETTINGS, help="one of them alone")
    parser.add_argument("--batch-size", type=int, help="images in a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="both sides under autocast")
    parser.add_argument("--processor-time", action="store_true", help="not that of the clock")
    options = parser.parse_args()
    for backbone in [options.backbone] if options.backbone else SETTINGS:
        compare(backbone, options)


def compare(backbone: str, options: argparse.Namespace) -> None:
    """Report one backbone."""
    setting = SETTINGS[backbone]
    size, count = setting.image_size, options.batch_size or setting.batch_size
    torch.manual_seed(0)
    images, labels = torch.rand(count, 3, size, size), torch.randint(CLASSES, (count,))
    sides = [
        in_precision(side, bf16=options.bf16)
        for side in (ours(backbone, images, labels), theirs(backbone, images, labels))
    ]
    clock = time.process_time if options.processor_time else time.perf_counter
    Comparison(
        what=f"joint step of {backbone}, {count} images of {size} pixels",
        against="the step of timm's classifier alone",
        measure="times the time",
        bound=setting.bound,
        rounds=alternate(*sides, rounds=options.rounds, clock=clock),
        notes=(f"{torch.get_num_threads()} threads", "bf16" if options.bf16 else "float32"),
    ).report()


def ours(backbone: str, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of the joint model."""
    model = JointClassifier(backbone, CLASSES, pretrained=False).train()

    def total() -> Tensor:
        output = model(images)
        return joint_objective(output.logits, output.predicted_losses, labels).total

    return step(model, total)


def theirs(backbone: str, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of the classifier alone."""
    model = timm.create_model(backbone, num_classes=CLASSES, drop_rate=0.4).train()
    model.to(memory_format=torch.channels_last)
    normalised = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
    return step(model, lambda: F.cross_entropy(model(normalised), labels))


def step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One step of Adam on a loss."""
    optimizer = Adam(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


def in_precision(side: Callable[[], None], *, bf16: bool) -> Callable[[], None]:
    """The same under autocast to bfloat16, or as it is."""

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            side()

    return run


if __name__ == "__main__":
    main()
