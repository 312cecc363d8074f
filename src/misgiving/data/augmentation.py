"""Random variation of training images, a whole batch at a time, on the device it is on.

All random numbers are drawn on the CPU, so that a run does not depend on the device.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from misgiving.data.preprocessing import AugmentationSettings

Images = Float[Tensor, "batch 3 height width"]
Draws = Float[Tensor, " batch"]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


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
    varied = images.clone()
    if settings.flips or settings.rotation > 0 or settings.translation > 0:
        varied = _move(varied, _affine(draws, settings, aspect=images.shape[3] / images.shape[2]))
    if settings.jitter > 0:
        varied = _jitter(varied, 1 + settings.jitter * _either_way(draws[:, 5:]))
    return varied


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


def _move(images: Images, affine: Float[Tensor, "batch 2 3"]) -> Images:
    """Resample; what comes in over an edge is the image mirrored at that edge."""
    grid = F.affine_grid(affine.to(images), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved.clamp(0, 1)  # interpolation weights sum to 1 only up to rounding


def _jitter(images: Images, factors: Float[Tensor, "batch 3"]) -> Images:
    """Scale brightness, contrast about the mean grey, then saturation about each pixel's grey."""
    brightness, contrast, saturation = factors.to(images)[:, :, None, None, None].unbind(dim=1)
    bright = images * brightness
    mean = _gray(bright).mean(dim=(1, 2, 3), keepdim=True)
    contrasted = mean + contrast * (bright - mean)
    gray = _gray(contrasted)
    return (gray + saturation * (contrasted - gray)).clamp(0, 1)


def _gray(images: Images) -> Float[Tensor, "batch 1 height width"]:
    return torch.einsum("bchw,c->bhw", images, torch.tensor(LUMA).to(images)).unsqueeze(1)
