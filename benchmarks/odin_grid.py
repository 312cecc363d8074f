"""ODIN's grid search: ours against pytorch-ood's GridSearch on the same grid, images and model.

    python benchmarks/odin_grid.py [--images 16] [--rounds 3] [--processor-time]

Both sides run in turn in one process. Our search does, for each batch, the unperturbed forward pass
once, one backward pass for each temperature, and one forward pass for each (T, eta) with eta above
zero. Hooks count the passes, and notes give the largest differences of scores and AUROCs. With
--processor-time and one thread (OMP_NUM_THREADS=1), a busy machine matters less.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch
from pytorch_ood.detector import ODIN
from pytorch_ood.utils import GridSearch
from side_by_side import Comparison, alternate
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from misgiving.models.joint import JointClassifier
from misgiving.scores.odin import EPSILONS, TEMPERATURES, odin_grid, score_grid, tune_odin


class Logits(torch.nn.Module):
    """The classifier as pytorch-ood expects it; in float64, in which ours are scored."""

    def __init__(self, model: JointClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.classify(images).double()


def main() -> None:
    """Time both sides in turn, and compare what they find."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=4, help="on either side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true", help="not that of the clock")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = JointClassifier(options.backbone, num_classes=5, pretrained=False).eval()
    shape = (options.images, 3, options.image_size, options.image_size)
    inliers, outliers = torch.rand(shape), torch.rand(shape).sqrt()
    loader = _loader(inliers, outliers)
    reference = GridSearch(ODIN(Logits(model)), None, loader, hyperparameter_space=_space())

    def search_theirs() -> None:
        reference.results_ = []
        reference.run()

    rounds = alternate(
        lambda: tune_odin(model.classify, [inliers], [outliers]),
        search_theirs,
        rounds=options.rounds,
        clock=time.process_time if options.processor_time else time.perf_counter,
    )
    tuning = tune_odin(model.classify, [inliers], [outliers])
    aurocs = np.array([record["score"] for record in reference.results_])
    difference = np.abs(np.array([trial.auroc for trial in tuning.grid]) - aurocs).max()
    passes = _passes(model, inliers)
    Comparison(
        what=f"ODIN's grid, {len(TEMPERATURES)} temperatures x {len(EPSILONS)} epsilons, "
        f"{2 * options.images} images of {options.image_size} pixels, {options.backbone}",
        against="pytorch-ood's GridSearch",
        measure="times as fast",
        bound=2.5,
        rounds=rounds,
        notes=(
            f"passes for a batch: {passes['forward']} forward, {passes['backward']} backward",
            f"largest difference of AUROC over the grid: {difference:.1e}",
            f"largest difference of scores over the grid: {_score_difference(model, inliers):.1e}",
        ),
    ).report()


def _passes(model: JointClassifier, images: Tensor) -> Counter[str]:
    """Number of forward and backward passes in the search of one batch."""
    passes: Counter[str] = Counter()
    last = model.backbone.get_classifier()
    handles = [
        last.register_forward_hook(lambda *_: passes.update(["forward"])),
        last.register_full_backward_hook(lambda *_: passes.update(["backward"])),
    ]
    score_grid(model.classify, [images], odin_grid(TEMPERATURES, EPSILONS))
    for handle in handles:
        handle.remove()
    return passes


def _space() -> dict[str, list[float]]:
    return {"temperature": list(TEMPERATURES), "eps": list(EPSILONS)}


def _loader(inliers: Tensor, outliers: Tensor) -> DataLoader[tuple[Tensor, ...]]:
    labels = torch.cat([torch.zeros(len(inliers)), -torch.ones(len(outliers))]).long()
    return DataLoader(TensorDataset(torch.cat([inliers, outliers]), labels), len(inliers))


def _score_difference(model: JointClassifier, images: Tensor) -> float:
    grid = odin_grid(TEMPERATURES, EPSILONS)
    candidate = score_grid(model.classify, [images], grid)
    worst = 0.0
    for point in grid:
        reference = ODIN(Logits(model), eps=point.epsilon, temperature=point.temperature)
        scores = -reference.predict(images).double().numpy()
        worst = max(worst, float(np.abs(scores - candidate[point]).max()))
    return worst


if __name__ == "__main__":
    main()
