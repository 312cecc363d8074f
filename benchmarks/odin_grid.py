"""ODIN's grid search: ours against pytorch-ood's GridSearch, same grid, same images, same model.

    python benchmarks/odin_grid.py [--images 16] [--repeats 3]

Both sides run in turn in one process. Prints the median ratio of the times with its range, and how
far the two sides' scores and AUROCs differ. Our search does the unperturbed forward pass once, one
backward pass for each temperature, and one forward pass for each (T, eta) with eta above zero.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from pytorch_ood.detector import ODIN
from pytorch_ood.utils import GridSearch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from misgiving.detectors import EPSILONS, TEMPERATURES, odin_grid, score_grid, tune_odin
from misgiving.models.joint import JointClassifier


class Logits(torch.nn.Module):
    """The classifier alone, as pytorch-ood wants it; in float64, as ours are when scored."""

    def __init__(self, model: JointClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.classify(images).double()


def main() -> None:
    """Time both sides in turn, and compare what they find."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=16, help="on either side")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = JointClassifier(options.backbone, num_classes=5, pretrained=False).eval()
    shape = (options.images, 3, options.image_size, options.image_size)
    inliers, outliers = torch.rand(shape), torch.rand(shape).sqrt()
    loader = _loader(inliers, outliers)
    theirs = GridSearch(ODIN(Logits(model)), None, loader, hyperparameter_space=_space())
    ratios = []
    for _ in range(options.repeats):
        ours_seconds, tuning = _timed(lambda: tune_odin(model.classify, [inliers], [outliers]))
        theirs.results_ = []
        theirs_seconds, _ = _timed(theirs.run)
        ratios.append(theirs_seconds / ours_seconds)
        print(f"ours {ours_seconds:.1f} s, pytorch-ood {theirs_seconds:.1f} s: {ratios[-1]:.2f}")
    aurocs = np.array([record["score"] for record in theirs.results_])
    difference = np.abs(np.array([trial.auroc for trial in tuning.grid]) - aurocs).max()
    print(
        f"{len(TEMPERATURES)} temperatures x {len(EPSILONS)} epsilons, {2 * options.images} images"
    )
    print(f"median ratio {median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    print(f"largest difference of AUROC over the grid: {difference:.1e}")
    print(f"largest difference of scores over the grid: {_score_difference(model, inliers):.1e}")


def _space() -> dict[str, list[float]]:
    return {"temperature": list(TEMPERATURES), "eps": list(EPSILONS)}


def _loader(inliers: Tensor, outliers: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    labels = torch.cat([torch.zeros(len(inliers)), -torch.ones(len(outliers))]).long()
    return DataLoader(TensorDataset(torch.cat([inliers, outliers]), labels), len(inliers))


def _timed(search: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    found = search()
    return time.perf_counter() - started, found


def _score_difference(model: JointClassifier, images: Tensor) -> float:
    grid = odin_grid(TEMPERATURES, EPSILONS)
    ours = score_grid(model.classify, [images], grid)
    worst = 0.0
    for point in grid:
        theirs = ODIN(Logits(model), eps=point.epsilon, temperature=point.temperature)
        scores = -theirs.predict(images).double().numpy()
        worst = max(worst, float(np.abs(scores - ours[point]).max()))
    return worst


if __name__ == "__main__":
    main()
