"""Batches of a prepared image set, and the order in which an epoch visits its images."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from misgiving.data.cache import ImageSet
from misgiving.data.decoding import in_order
from misgiving.errors import UsageError
from misgiving.registry import Registry

BATCHES_AHEAD = 2  # batches that are read while one is used


def uninitialized(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """A contiguous tensor without set values.

    On a CPU its memory is numpy's, which asks Linux for large pages where torch does not: setting
    them up takes less than half the time, and that is more than filling them takes.
    """
    if torch.device(device).type != "cpu" or 0 in shape:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    content = np.empty(torch.Size(shape).numel() * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(content).view(dtype).view(tuple(shape))


class Batch(NamedTuple):
    """Images in [0, 1] with their labels and their positions in the image set."""

    images: Float[Tensor, "batch 3 size size"]
    labels: Int64[Tensor, " batch"]
    indices: Int64[Tensor, " batch"]


def batches(
    images: ImageSet,
    *,
    batch_size: int,
    order: Int[np.ndarray, " m"] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Batches in the given order of positions, by default in that of the set; the last is shorter.

    A thread reads two batches ahead. Pixels travel to the device as bytes, from pinned memory to a
    GPU, and become float32 there.
    """
    if batch_size < 1:
        raise UsageError(f"`batch_size` must be at least 1, got {batch_size}")
    order = np.arange(len(images)) if order is None else order
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    pinned = torch.device(device).type == "cuda"

    def read(number: int) -> tuple[Tensor, ...]:
        """Pixels as bytes, labels and positions, in memory."""
        indices = chunks[number]
        numbers = (images.labels[indices].astype(np.int64), indices.astype(np.int64))
        tensors = map(torch.from_numpy, (images.read(indices), *numbers))
        return tuple(tensor.pin_memory() if pinned else tensor for tensor in tensors)

    ahead = in_order(read, len(chunks), workers=1, ahead=1 + BATCHES_AHEAD)
    return (_on_device(*tensors, device=device) for tensors in ahead)


def _on_device(
    pixels: UInt8[Tensor, "batch size size 3"],
    labels: Int64[Tensor, " batch"],
    indices: Int64[Tensor, " batch"],
    *,
    device: torch.device | str,
) -> Batch:
    pixels, labels, indices = (
        tensor.to(device, non_blocking=tensor.is_pinned()) for tensor in (pixels, labels, indices)
    )
    count, height, width, channels = pixels.shape
    shape = (count, channels, height, width)
    fractions = uninitialized(shape, dtype=torch.float32, device=pixels.device)
    return Batch(fractions.copy_(pixels.permute(0, 3, 1, 2)).div_(255), labels, indices)


SAMPLING: Registry[Callable[[Tensor], Tensor] | None] = Registry(
    "`class_weighted`", inverse=torch.reciprocal, sqrt=torch.rsqrt, none=None
)
"""Weight of a sample, given the size of its class; None draws each sample once."""


def sampling_order(
    labels: Int[np.ndarray, " n"], *, class_weighted: str, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """Positions to train on in one epoch, as many as there are samples.

    `inverse` and `sqrt` draw with replacement with weight 1 / n_k and 1 / sqrt(n_k), where n_k is
    the size of the sample's class; with `inverse` all classes are equally frequent. `none` is a
    permutation. Depends on seed and epoch alone, not on torch's global generator.
    """
    weigh = SAMPLING[class_weighted]
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    if weigh is None:
        order = torch.randperm(len(labels), generator=generator)
    else:
        counts = torch.from_numpy(np.bincount(labels)[labels]).double()
        order = torch.multinomial(weigh(counts), len(labels), True, generator=generator)
    return order.numpy()
