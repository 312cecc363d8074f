"""Random variation of training images, many at a time, on the device they are on.

All random numbers are drawn on the CPU, so that a run does not depend on the device. On a CPU a
batch is varied in parts that stay in its cache, in memory that is used again for the next part: to
get fresh memory from the system takes longer than to change the colours.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from misgiving.data.batching import uninitialized
from misgiving.data.preprocessing import AugmentationSettings

Images = Float[Tensor, "batch 3 height width"]
Planes = Float[Tensor, "batch planes height width"]
Draws = Float[Tensor, " batch"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
PART = 2**19  # values of a part on a CPU: 2 MiB


@torch.no_grad()
def augment(images: Images, settings: AugmentationSettings, generator: torch.Generator) -> Images:
    """Vary every image by a draw of its own: flips, rotation and translation, then colours.

    Settings that are all zero copy the images bit for bit. Every image takes the same number of
    draws whatever the settings, so that one kind can be left out without changing the others.

    Args:
        images: In [0, 1]; so is the result.
        settings: How strongly.
        generator: On the CPU; its state moves on.
    """
    draws = _draw(len(images), generator)
    varied = uninitialized(images.shape, dtype=images.dtype, device=images.device)
    size = _size_of_part(images)
    scratch = torch.empty_like(varied[:size])
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        planes = scratch[: len(varied[part])]
        _vary(images[part], draws[part], settings, planes, out=varied[part])
    return varied


def _size_of_part(images: Images) -> int:
    """How many images are varied at once: on a GPU all of them."""
    return max(1, PART // images.shape[1:].numel()) if images.device.type == "cpu" else len(images)


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
        images = _move(images, affine, scratch[:, :2])
    if settings.jitter > 0:
        factors = 1 + settings.jitter * _either_way(draws[:, 5:])
        _jitter(images, factors, scratch[:, 2:], out=out)
    else:
        out.copy_(images)
    out.clamp_(0, 1)  # also without a jitter: interpolation weights sum to 1 up to rounding


def _draw(count: int, generator: torch.Generator) -> Float[Tensor, "batch 8"]:
    """Per image: two flips, angle, two shifts, brightness, contrast, saturation; in [0, 1)."""
    return torch.rand(count, 8, generator=generator)


def _affine(
    draws: Float[Tensor, "batch 8"], settings: AugmentationSettings, *, aspect: float
) -> Float[Tensor, "batch 2 3"]:
    """Maps a place in the result to a place in the image, both from -1 to 1 along either side.

    On an image that is not square, those units differ between the sides; `aspect`, width over
    height, keeps the rotation a rotation.
    """
    mirrored = (draws[:, :2] < 0.5) & settings.flips
    flip_x, flip_y = torch.where(mirrored, -1.0, 1.0).T
    angle = torch.deg2rad(settings.rotation * _either_way(draws[:, 2]))
    shift_x, shift_y = (2 * settings.translation * _either_way(draws[:, 3:5])).T
    cosine, sine = angle.cos(), angle.sin()
    along_x = torch.stack([flip_x * cosine, -flip_y * sine / aspect, shift_x], dim=1)
    along_y = torch.stack([flip_x * sine * aspect, flip_y * cosine, shift_y], dim=1)
    return torch.stack([along_x, along_y], dim=1)


def _either_way(draws: Tensor) -> Tensor:
    """From [0, 1) to [-1, 1)."""
    return 2 * draws - 1


def _move(images: Images, affine: Float[Tensor, "batch 2 3"], grid: Planes) -> Images:
    """Resample; what comes in over an edge is the image mirrored at that edge."""
    _write_grid(affine.to(images), grid)
    places = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)


def _write_grid(affine: Float[Tensor, "batch 2 3"], grid: Planes) -> None:
    """`affine_grid`, which multiplies matrices at every pixel, as a sum of a row and a column."""
    height, width = (_centres(side).to(affine) for side in grid.shape[2:])
    along_width = affine[:, :, 0, None] * width
    along_height = affine[:, :, 1, None] * height + affine[:, :, 2, None]
    torch.add(along_width[:, :, None, :], along_height[:, :, :, None], out=grid)


def _centres(count: int) -> Float[Tensor, " count"]:
    """Centres of so many pixels, from -1 to 1 over their outer edges."""
    return (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1


def _jitter(
    images: Images, factors: Float[Tensor, "batch 3"], gray: Planes, *, out: Images
) -> None:
    """Scale brightness, contrast about the mean grey, then saturation about each pixel's grey.

    With factors b, c and s, the grey g of a pixel x as it was and m, the mean of g, this is
    s c b x + (1 - s) c b g + (1 - c) b m: all three are linear, and the grey of a grey is itself.
    """
    brightness, contrast, saturation = factors.to(images)[:, :, None, None, None].unbind(dim=1)
    _write_gray(images, gray)
    mean = gray.mean(dim=(1, 2, 3), keepdim=True)
    gray.mul_((1 - saturation) * contrast * brightness).add_((1 - contrast) * brightness * mean)
    torch.addcmul(gray, images, saturation * contrast * brightness, out=out)


def _write_gray(images: Images, gray: Planes) -> None:
    red, green, blue = (images[:, channel, None] for channel in range(3))
    torch.mul(red, LUMA[0], out=gray).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
