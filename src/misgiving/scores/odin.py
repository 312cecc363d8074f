"""ODIN, and the search for its temperature and epsilon.

The model runs outside autocast, and its logits are scored in float64.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from misgiving.errors import UsageError
from misgiving.metrics.ood import ood_metrics
from misgiving.scores.logits import Logits, Scores, confidence, wide

Images = Float[Tensor, "batch channels height width"]
Classifier = Callable[[Tensor], Tensor]
"""From images in [0, 1] to logits, in evaluation mode."""

TEMPERATURES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
EPSILONS = tuple(round(0.0002 * step, 4) for step in range(21))


@dataclass(frozen=True, kw_only=True)
class Odin:
    """Temperature-scaled softmax of a perturbed input (Liang et al., 2018; paper, Eqs. 3-4).

    `epsilon` is the size of the perturbation, which the paper writes as eta, in units of pixels in
    [0, 1]. The perturbed image is not clipped to [0, 1], as in Eq. 4. The gradient's sign is 0
    where the gradient is.
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise UsageError(f"temperature must be positive, got {self.temperature}")
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise UsageError(f"epsilon must not be negative, got {self.epsilon}")

    def __call__(self, classify: Classifier, images: Images) -> Scores:
        with _full_precision(images):
            if self.epsilon == 0:
                return confidence(_classify(classify, images), self.temperature)
            direction = next(_directions(classify, images, [self.temperature])).direction
            perturbed = images.detach() + self.epsilon * direction
            return confidence(_classify(classify, perturbed), self.temperature)


@torch.no_grad()
def _classify(classify: Classifier, images: Images) -> Logits:
    return classify(images)


class _Unperturbed(NamedTuple):
    logits: Logits
    direction: Images


def _directions(
    classify: Classifier, images: Images, temperatures: Sequence[float]
) -> Iterator[_Unperturbed]:
    """One forward pass, then one backward pass for each temperature: the sign in Eq. 4.

    x - eta sign(-grad log S) is x + eta sign(grad log S): a step that raises the confidence.
    """
    with _gradients():
        images = images.detach().clone().requires_grad_()
        logits = wide(classify(images))
    for number, temperature in enumerate(temperatures, start=1):
        with _gradients():
            log_confidence = (logits / temperature).log_softmax(dim=1).amax(dim=1)
            (gradient,) = torch.autograd.grad(
                log_confidence.sum(), images, retain_graph=number < len(temperatures)
            )
        yield _Unperturbed(logits.detach(), gradient.sign())


@contextmanager
def _gradients() -> Iterator[None]:
    """Record gradients, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _full_precision(images: Images) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # its short mantissa would show at a high temperature
    try:
        with torch.autocast(images.device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


GridScores = Mapping[Odin, Float[np.ndarray, " _"]]  # sets differ in size


class Trial(NamedTuple):
    """One point of the grid and how well it separates the tuning sets (AUROC)."""

    detector: Odin
    auroc: float


class Tuning(NamedTuple):
    """The best point of the grid, and the whole grid in the order it was asked for."""

    best: Odin
    grid: tuple[Trial, ...]


def tune_odin(
    classify: Classifier,
    inliers: Iterable[Tensor],
    outliers: Iterable[Tensor],
    temperatures: Sequence[float] = TEMPERATURES,
    epsilons: Sequence[float] = EPSILONS,
) -> Tuning:
    """Choose ODIN's temperature and epsilon by the AUROC on a named tuning set (paper, 4.2).

    The set that is used here must be marked as tuned wherever its results are shown. Of equal
    points the first in the grid wins. The search shares its work: one unperturbed forward pass,
    one backward pass for each temperature, one forward pass for each perturbed image.

    Args:
        classify: From images in [0, 1] to logits, in evaluation mode.
        inliers: Batches of in-distribution images, (N, 3, H, W).
        outliers: Batches of images of the tuning set.
        temperatures: Grid over T.
        epsilons: Grid over eta, in [0, 1] pixel units.
    """
    grid = odin_grid(temperatures, epsilons)
    return best_of_grid(
        score_grid(classify, inliers, grid), score_grid(classify, outliers, grid), grid
    )


def odin_grid(temperatures: Sequence[float], epsilons: Sequence[float]) -> list[Odin]:
    """Every combination of a temperature and an epsilon."""
    return [Odin(temperature=t, epsilon=e) for t in temperatures for e in epsilons]


def best_of_grid(inliers: GridScores, outliers: GridScores, candidates: Sequence[Odin]) -> Tuning:
    """Compare points of a grid by the AUROC of their scores; of equal points the first is best."""
    if not candidates:
        raise UsageError("the grid is empty; give at least one temperature and one epsilon")
    trials = tuple(
        Trial(point, float(ood_metrics(inliers[point], outliers[point])["auroc"]))
        for point in candidates
    )
    return Tuning(max(trials, key=lambda trial: trial.auroc).detector, trials)


def id_only_odin(inliers: GridScores, candidates: Sequence[Odin]) -> Odin:
    """Choose epsilon without any OOD image: that with the highest mean confidence of the inliers.

    The rule of Generalized ODIN (Hsu et al., 2020), at the highest temperature of the grid, as
    confidences at different temperatures cannot be compared. Of equal points the first is taken.
    """
    if not candidates:
        raise UsageError("the grid is empty; give at least one temperature and one epsilon")
    highest = max(point.temperature for point in candidates)
    points = [point for point in candidates if point.temperature == highest]
    return max(points, key=lambda point: float(inliers[point].mean()))


def score_grid(classify: Classifier, batches: Iterable[Tensor], grid: Sequence[Odin]) -> GridScores:
    """Scores of all images at every point of a grid, with the work shared between the points."""
    scores: dict[Odin, list[Tensor]] = {point: [] for point in grid}
    for images in batches:
        with _full_precision(images):
            for point, batch_scores in _score_batch(classify, images, grid):
                scores[point].append(batch_scores.double().cpu())
    return {point: torch.cat(parts).numpy() for point, parts in scores.items()}


def _score_batch(
    classify: Classifier, images: Images, grid: Sequence[Odin]
) -> Iterator[tuple[Odin, Scores]]:
    temperatures = list(dict.fromkeys(point.temperature for point in grid))
    for temperature, (logits, direction) in zip(
        temperatures, _directions(classify, images, temperatures), strict=True
    ):
        for point in grid:
            if point.temperature != temperature:
                continue
            if point.epsilon == 0:
                yield point, confidence(logits, temperature)
            else:
                perturbed = images.detach() + point.epsilon * direction
                yield point, confidence(_classify(classify, perturbed), temperature)
