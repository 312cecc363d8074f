"""ODIN: the softmax of a perturbed input (Liang et al., 2018; paper, Eqs. 3-4).

The model runs outside autocast and without TF32, and its logits are scored in float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from misgiving.errors import UsageError

Images = Float[Tensor, "batch channels height width"]
Logits = Float[Tensor, "batch classes"]
Scores = Float[Tensor, " batch"]
Classifier = Callable[[Tensor], Tensor]
"""From images in [0, 1] to logits, in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class Odin:
    """Temperature-scaled softmax of a perturbed input (Liang et al., 2018; paper, Eqs. 3-4).

    `epsilon` is the size of the perturbation, which the paper writes as eta, in units of pixels in
    [0, 1]. The perturbed image is not clipped to [0, 1], as in Eq. 4. The gradient's sign is 0
    where the gradient is.

    Raises:
        UsageError: `temperature` is not positive or `epsilon` is negative, or one is not finite.
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UsageError(f"temperature must be positive, got {self.temperature}")
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise UsageError(f"epsilon must not be negative, got {self.epsilon}")

    def __call__(self, classify: Classifier, images: Images) -> Scores:
        return score_points(classify, images, [self])[self]


def score_points(
    classify: Classifier, images: Images, points: Sequence[Odin]
) -> dict[Odin, Scores]:
    """Score a batch at several temperatures and epsilons, with the work shared between them.

    One unperturbed forward pass, one backward pass for each temperature, and one forward pass for
    each point with a perturbation.
    """
    perturb = any(point.epsilon > 0 for point in points)
    temperatures = list(dict.fromkeys(point.temperature for point in points))
    scores: dict[Odin, Scores] = {}
    with _full_precision(images.device.type):
        with torch.inference_mode(False), torch.set_grad_enabled(perturb):
            inputs = images.detach().clone().requires_grad_(perturb)
            logits = _wide(classify(inputs))
        for temperature in temperatures:
            if perturb:
                last = temperature == temperatures[-1]
                direction = _direction(logits, inputs, temperature, retain_graph=not last)
            for point in (point for point in points if point.temperature == temperature):
                scored = logits.detach()
                if point.epsilon > 0:
                    with torch.no_grad():
                        scored = classify(images.detach() + point.epsilon * direction)
                scores[point] = (_wide(scored) / temperature).softmax(dim=1).amax(dim=1)  # Eq. 3
    return scores


def _direction(logits: Logits, inputs: Images, temperature: float, *, retain_graph: bool) -> Images:
    """Sign in Eq. 4: x - eta sign(-grad log S) is x + eta sign(grad log S), which raises S."""
    with torch.inference_mode(False), torch.enable_grad():
        log_confidence = (logits / temperature).log_softmax(dim=1).amax(dim=1)
        (gradient,) = torch.autograd.grad(log_confidence.sum(), inputs, retain_graph=retain_graph)
    return gradient.sign()


def _wide(logits: Logits) -> Logits:
    """Float64, in which confidences at T = 1000 do not collapse; float32 on mps."""
    return logits.float() if logits.device.type == "mps" else logits.double()


@contextmanager
def _full_precision(device_type: str) -> Iterator[None]:
    """Switch off autocast and TF32, whose short mantissas would show at a high temperature."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
