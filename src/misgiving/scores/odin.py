"""ODIN: the softmax of a perturbed input, and its tuning (Liang et al., 2018; paper, Eqs. 3-4).

The model runs outside autocast and without TF32, and its logits are scored in float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from misgiving.errors import UsageError
from misgiving.metrics.ood import ood_metrics
from misgiving.tensors import Images, Logits

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

    def __call__(self, classify: Classifier, images: Images) -> Float[Tensor, " batch"]:
        return score_points(classify, images, [self])[self]


def score_points(
    classify: Classifier, images: Images, points: Sequence[Odin]
) -> dict[Odin, Float[Tensor, " batch"]]:
    """Score a batch at several temperatures and epsilons, with the work shared between them.

    One unperturbed forward pass, one backward pass for each temperature, and one forward pass for
    each point with a perturbation.
    """
    perturb = any(point.epsilon > 0 for point in points)
    temperatures = list(dict.fromkeys(point.temperature for point in points))
    scores: dict[Odin, Float[Tensor, " batch"]] = {}
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


TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
EPSILONS = tuple(round(0.0002 * step, 4) for step in range(21))

Criterion = Literal["auroc", "fpr_at_tpr95"]
"""The best point has the highest AUROC, or as in ODIN's own paper the lowest FPR@TPR95."""

GridScores = Mapping[Odin, Float[np.ndarray, " _"]]  # sets differ in size


class Tuning(NamedTuple):
    """The best point of the grid, and how well each separates the sets, in the grid's order."""

    best: Odin
    grid: Mapping[Odin, Mapping[Criterion, float]]


def tune_odin(
    classify: Classifier,
    inliers: Iterable[Tensor],
    outliers: Iterable[Tensor],
    temperatures: Sequence[float] = TEMPERATURES,
    epsilons: Sequence[float] = EPSILONS,
    *,
    criterion: Criterion = "auroc",
) -> Tuning:
    """Choose ODIN's temperature and epsilon on a named tuning set (paper, 4.2).

    The set that is used here must be marked as tuned wherever its results are shown. Of equal
    points the first in the grid wins. The search shares its work: one unperturbed forward pass,
    one backward pass for each temperature, one forward pass for each perturbed image.

    Args:
        classify: From images in [0, 1] to logits, in evaluation mode.
        inliers: Batches of in-distribution images, (N, 3, H, W).
        outliers: Batches of images of the tuning set.
        temperatures: Grid over T.
        epsilons: Grid over eta, in [0, 1] pixel units.
        criterion: Take the highest `auroc`, or the lowest `fpr_at_tpr95`; the paper names none.

    Raises:
        UsageError: The grid has a point that `Odin` refuses, or a score is not finite.
    """
    grid = odin_grid(temperatures, epsilons)
    inlier_scores = score_grid(classify, inliers, grid)
    outlier_scores = score_grid(classify, outliers, grid)
    return best_of_grid(inlier_scores, outlier_scores, grid, criterion=criterion)


def odin_grid(temperatures: Sequence[float], epsilons: Sequence[float]) -> list[Odin]:
    """Every combination of a temperature and an epsilon."""
    return [Odin(temperature=t, epsilon=e) for t in temperatures for e in epsilons]


def best_of_grid(
    inliers: GridScores,
    outliers: GridScores,
    candidates: Sequence[Odin],
    *,
    criterion: Criterion = "auroc",
) -> Tuning:
    """Compare points of a grid by a criterion; of equal points the first is best.

    Raises:
        UsageError: A set is empty or has a score that is not finite.
    """
    grid: dict[Odin, dict[Criterion, float]] = {}
    for point in candidates:
        metrics = ood_metrics(inliers[point], outliers[point])
        grid[point] = {name: float(metrics[name]) for name in get_args(Criterion)}
    sign = 1 if criterion == "auroc" else -1
    return Tuning(max(grid, key=lambda point: sign * grid[point][criterion]), grid)


def id_only_odin(inliers: GridScores, candidates: Sequence[Odin]) -> Odin:
    """Choose epsilon without any OOD image: that with the highest mean confidence of the inliers.

    The rule of Generalized ODIN (Hsu et al., 2020), at the highest temperature of the grid, as
    confidences at different temperatures cannot be compared. Of equal points the first is taken.
    """
    highest = max(point.temperature for point in candidates)
    points = [point for point in candidates if point.temperature == highest]
    return max(points, key=lambda point: float(inliers[point].mean()))


def score_grid(classify: Classifier, batches: Iterable[Tensor], grid: Sequence[Odin]) -> GridScores:
    """Score all images at every point of a grid."""
    scores: dict[Odin, list[Tensor]] = {point: [] for point in grid}
    for images in batches:
        for point, batch_scores in score_points(classify, images, grid).items():
            scores[point].append(batch_scores.double().cpu())
    return {point: torch.cat(batches).numpy() for point, batches in scores.items()}
