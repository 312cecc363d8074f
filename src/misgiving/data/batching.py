"""Batches of a prepared image set, the order of an epoch, and random variation of its images.

All random numbers are drawn on the CPU, so that a run does not depend on the device. On a CPU, a
batch is varied in chunks that fit into its cache, in memory that the next chunk reuses: getting new
memory from the system takes longer than changing colours.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F

from misgiving.data.cache import ImageSet
from misgiving.data.decoding import in_order
from misgiving.data.preprocessing import AugmentationSettings
from misgiving.registry import Registry
from misgiving.tensors import Images, Labels

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
CHUNK_VALUES = 2**19  # values per chunk on a CPU: 2 MiB
BATCHES_AHEAD = 2  # batches that are read while one is used


def batches(
    images: ImageSet,
    *,
    batch_size: int,
    order: Int[np.ndarray, " m"] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Images, Labels]]:
    """Images in [0, 1] with their labels, in the given order of positions or in that of the set.

    The last batch is shorter. A thread reads two batches ahead. Pixels travel to the device as
    bytes, from pinned memory to a GPU, and become float32 there.
    """
    order = np.arange(len(images)) if order is None else order
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    pinned = torch.device(device).type == "cuda"

    def read(number: int) -> tuple[Tensor, ...]:
        """Pixels as bytes, and labels, in memory."""
        pixels, labels = images.read(chunks[number]), images.labels[chunks[number]]
        tensors = map(torch.from_numpy, (pixels, labels.astype(np.int64)))
        return tuple(tensor.pin_memory() if pinned else tensor for tensor in tensors)

    def on_device(tensors: tuple[Tensor, ...]) -> tuple[Images, Labels]:
        pixels, labels = (tensor.to(device, non_blocking=pinned) for tensor in tensors)
        channels_first = pixels.permute(0, 3, 1, 2)
        fractions = uninitialized(channels_first, torch.float32).copy_(channels_first)
        return fractions.div_(255), labels

    return map(on_device, in_order(read, len(chunks), workers=1, ahead=1 + BATCHES_AHEAD))


def uninitialized(like: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous tensor of the same shape and device, without set values.

    On a CPU its memory is numpy's, which asks Linux for large pages where torch does not: setting
    them up takes less than half the time, and that is more than filling them takes.
    """
    if like.device.type != "cpu" or not like.numel():
        return torch.empty(like.shape, dtype=dtype, device=like.device)
    content = np.empty(like.numel() * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(content).view(dtype).view(like.shape)


SAMPLING: Registry[Callable[[Tensor], Tensor] | None] = Registry(
    "weighting of the sampling", inverse=torch.reciprocal, sqrt=torch.rsqrt, none=None
)
"""Weight of a sample, given the size of its class; None draws each sample once."""


def sampling_order(
    labels: Int[np.ndarray, " n"], *, weighting: str, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """Positions to train on in one epoch, as many as there are samples.

    `inverse` and `sqrt` draw with replacement with weight 1 / n_k and 1 / sqrt(n_k), where n_k is
    the size of the sample's class; with `inverse` all classes are equally frequent. `none` is a
    permutation. Depends on seed and epoch alone, not on torch's global generator.
    """
    weigh = SAMPLING[weighting]
    mixed = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    if weigh is None:
        order = torch.randperm(len(labels), generator=generator)
    else:
        counts = torch.from_numpy(np.bincount(labels)[labels]).double()
        order = torch.multinomial(weigh(counts), len(labels), True, generator=generator)
    return order.numpy()


@torch.no_grad()
def augment(images: Images, settings: AugmentationSettings, generator: torch.Generator) -> Images:
    """Vary each image at random: flips, rotation and translation, then colours.

    Settings of zero copy the images exactly. Each image takes the same number of draws in any case,
    so that one kind of variation can be left out without changing the others. Values stay in
    [0, 1]. The generator is on the CPU.
    """
    draws = _draw(len(images), generator)
    varied = uninitialized(images, images.dtype)
    size = len(images)
    if images.device.type == "cpu":
        size = max(1, CHUNK_VALUES // images.shape[1:].numel())
    scratch = torch.empty_like(varied[:size])
    for start in range(0, len(images), size):
        chunk = slice(start, start + size)
        planes = scratch[: len(varied[chunk])]
        _vary(images[chunk], draws[chunk], settings, planes, out=varied[chunk])
    return varied


def _draw(count: int, generator: torch.Generator) -> Float[Tensor, "batch 8"]:
    """Per image: two flips, angle, two shifts, brightness, contrast, saturation; in [0, 1)."""
    return torch.rand(count, 8, generator=generator)


def _vary(
    images: Images,
    draws: Float[Tensor, "batch 8"],
    settings: AugmentationSettings,
    scratch: Images,
    *,
    out: Images,
) -> None:
    if settings.flips or settings.rotation > 0 or settings.translation > 0:
        affine = _affine(draws, settings, aspect=images.shape[3] / images.shape[2])
        grid = scratch[:, :2]
        _write_grid(affine.to(images), grid)
        images = F.grid_sample(  # beyond an edge, the image is mirrored at that edge
            images, grid.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False
        )
    if settings.jitter > 0:
        factors = 1 + settings.jitter * (2 * draws[:, 5:] - 1)
        _jitter(images, factors, scratch[:, 2:], out=out)
    else:
        out.copy_(images)
    out.clamp_(0, 1)  # also without a jitter: interpolation weights sum to 1 up to rounding


def _affine(
    draws: Float[Tensor, "batch 8"], settings: AugmentationSettings, *, aspect: float
) -> Float[Tensor, "batch 2 3"]:
    """Map from positions in the result to positions in the image, both from -1 to 1 on each side.

    `aspect`, width over height, keeps the rotation a rotation where the image is not square.
    """
    mirrored = (draws[:, :2] < 0.5) & settings.flips
    flip_x, flip_y = torch.where(mirrored, -1.0, 1.0).T
    angle = torch.deg2rad(settings.rotation * (2 * draws[:, 2] - 1))
    shift_x, shift_y = (2 * settings.translation * (2 * draws[:, 3:5] - 1)).T
    cosine, sine = angle.cos(), angle.sin()
    along_x = torch.stack([flip_x * cosine, -flip_y * sine / aspect, shift_x], dim=1)
    along_y = torch.stack([flip_x * sine * aspect, flip_y * cosine, shift_y], dim=1)
    return torch.stack([along_x, along_y], dim=1)


def _write_grid(
    affine: Float[Tensor, "batch 2 3"], grid: Float[Tensor, "batch planes height width"]
) -> None:
    """`affine_grid` as a sum of a row and a column, instead of a matrix product per pixel."""
    height, width = (  # centres of pixels, from -1 to 1 over their outer edges
        ((2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1).to(affine)
        for side in grid.shape[2:]
    )
    along_width = affine[:, :, 0, None] * width
    along_height = affine[:, :, 1, None] * height + affine[:, :, 2, None]
    torch.add(along_width[:, :, None, :], along_height[:, :, :, None], out=grid)


def _jitter(
    images: Images,
    factors: Float[Tensor, "batch 3"],
    gray: Float[Tensor, "batch planes height width"],
    *,
    out: Images,
) -> None:
    """Scale brightness, contrast about the mean grey, then saturation about each pixel's grey.

    With factors b, c and s, the grey g of a pixel x as it was and m, the mean of g, this is
    s c b x + (1 - s) c b g + (1 - c) b m: all three are linear, and the grey of a grey is itself.
    """
    brightness, contrast, saturation = factors.to(images)[:, :, None, None, None].unbind(dim=1)
    red, green, blue = (images[:, channel, None] for channel in range(3))
    torch.mul(red, LUMA[0], out=gray).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    mean = gray.mean(dim=(1, 2, 3), keepdim=True)
    gray.mul_((1 - saturation) * contrast * brightness).add_((1 - contrast) * brightness * mean)
    torch.addcmul(gray, images, saturation * contrast * brightness, out=out)
