"""Eq. 1 over all pairs, forward and backward: ours against the formula on the matrix of pairs.

    OMP_NUM_THREADS=1 python benchmarks/ranking_loss.py [--rounds 15]

The formula is that of the paper, with all pairs in a matrix. Ours does the same for small batches
and counts the pairs of large ones; it may take 1.1 times the time at any size. At 65,536 samples,
whose matrix would not fit, the peak memory of ours is measured. Times are processor times, which a
busy machine changes less.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from anonymous_memory import MIB, anonymous, peak
from side_by_side import Comparison, Reading, alternate
from torch import Tensor
from torch.nn import functional as F

from misgiving.losses import ranking_loss

COMPARED = (64, 256, 512, 1024, 8192)
ALONE = (65_536,)

RankingLoss = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Measure the memory of ours, before anything else uses memory, and then compare times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--largest", type=int, default=COMPARED[-1], help="size compared")
    options = parser.parse_args()
    repeat(ranking_loss, 1024, 1)  # one-time allocations are not counted
    before = anonymous()
    for size in ALONE:
        report_alone(size, before)
    # glibc keeps freed memory once a larger block was freed, as training frees its activations;
    # without this, page faults decide which side of a comparison wins.
    torch.empty(30 * MIB, dtype=torch.uint8)
    for size in COMPARED:
        if size <= options.largest:
            compare(size, options.rounds)


def compare(size: int, rounds: int) -> None:
    """Report one size; the difference is that of the loss, relative."""
    repeats, rounds = max(1, 4096 // size), max(3, rounds * 512 // max(size, 512))
    predicted, true = losses_of(size)
    listed, counted = listed_pairs(predicted, true).item(), ranking_loss(predicted, true).item()
    Comparison(
        what=f"ranking loss of {size} samples, forward and backward",
        against="the matrix of pairs",
        measure="times the time",
        bound=1.1,
        rounds=alternate(
            partial(repeat, ranking_loss, size, repeats),
            partial(repeat, listed_pairs, size, repeats),
            rounds=rounds,
            clock=time.process_time,
        ),
        notes=(f"relative difference {abs(counted / listed - 1):.1e}",),
    ).report()


def report_alone(size: int, before: int) -> None:
    """Report the peak memory of ours above that before."""
    taken = (peak(partial(repeat, ranking_loss, size, 5), every=0.0005) - before) / MIB
    seconds = []
    for _ in range(5):
        started = time.process_time()
        repeat(ranking_loss, size, 1)
        seconds.append(time.process_time() - started)
    Reading(
        what=f"memory of the ranking loss of {size} samples",
        values=[taken],
        unit="MiB",
        bound=size / 1024,
        notes=(
            f"median seconds {median(seconds):.3g}",
            f"the matrix of pairs alone would take {4 * size * size / MIB:.0f} MiB",
        ),
    ).report()


def losses_of(size: int) -> tuple[Tensor, Tensor]:
    """Predicted and true losses, some of them tied."""
    random = torch.Generator().manual_seed(size)
    predicted = torch.randn(size, generator=random)
    return predicted, torch.rand(size, generator=random).round(decimals=3)


def repeat(loss: RankingLoss, size: int, times: int) -> None:
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
