"""Detection of OOD images: ODIN's grid search and the metrics, against other libraries.

    python benchmarks/ood.py [--rounds 3] [--processor-time]

*Grid*: ours against pytorch-ood's GridSearch on the same grid, images and model, in turn in one
process. Our search does, for each batch, the unperturbed forward pass once, one backward pass for
each temperature, and one forward pass for each (T, epsilon) with epsilon above zero. Hooks count
the passes, and notes give the largest differences of scores and AUROCs.

*Metrics*: scikit-learn is used as its documentation does: one ROC curve for the FPR at 95 % TPR and
for the detection error, `roc_auc_score`, and the trapezoid over the precision-recall curve for
either set as positives. Times are the processor's: a busy machine adds less to them.

With --processor-time and one thread (OMP_NUM_THREADS=1), it also matters less for the grid.
"""

import argparse
import time
from collections import Counter

import numpy as np
import torch
from pytorch_ood.detector import ODIN
from pytorch_ood.utils import GridSearch
from side_by_side import Comparison, alternate
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from misgiving.metrics.ood import ood_metrics
from misgiving.models.joint import JointClassifier
from misgiving.scores.odin import EPSILONS, TEMPERATURES, odin_grid, score_grid, tune_odin

BACKBONE, IMAGE_SIZE, IMAGES = "tf_efficientnet_lite0", 32, 4  # images on either side
SCORES = 1_000_000  # in each set


class Logits(torch.nn.Module):
    """The classifier as pytorch-ood expects it; in float64, in which ours are scored."""

    def __init__(self, model: JointClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.classify(images).double()


def main() -> None:
    """Report both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processor-time", action="store_true", help="not that of the clock")
    parser.add_argument("--decimals", type=int, help="round the scores, so that many are tied")
    options = parser.parse_args()
    compare_grid(options)
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(1, 1, SCORES), random.normal(0, 1, SCORES)
    if options.decimals is not None:
        inliers, outliers = inliers.round(options.decimals), outliers.round(options.decimals)
    compare_metrics(inliers, outliers, 2 * options.rounds + 1)


def compare_grid(options: argparse.Namespace) -> None:
    """Time both searches in turn, and compare what they find."""
    torch.manual_seed(0)
    model = JointClassifier(BACKBONE, num_classes=5, pretrained=False).eval()
    shape = (IMAGES, 3, IMAGE_SIZE, IMAGE_SIZE)
    inliers, outliers = torch.rand(shape), torch.rand(shape).sqrt()
    space = {"temperature": list(TEMPERATURES), "eps": list(EPSILONS)}
    loader = _loader(inliers, outliers)
    reference = GridSearch(ODIN(Logits(model)), None, loader, hyperparameter_space=space)

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
    difference = np.abs(np.array([point["auroc"] for point in tuning.grid.values()]) - aurocs).max()
    passes = _passes(model, inliers)
    Comparison(
        what=f"ODIN's grid, {len(TEMPERATURES)} temperatures x {len(EPSILONS)} epsilons, "
        f"{2 * IMAGES} images of {IMAGE_SIZE} pixels, {BACKBONE}",
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


def compare_metrics(inliers: np.ndarray, outliers: np.ndarray, rounds: int) -> None:
    """Time the metrics on both sides, and compare them."""
    measures: dict[str, dict[str, float]] = {}
    timed = alternate(
        lambda: measures.update(candidate=ood_metrics(inliers, outliers)),
        lambda: measures.update(reference=by_scikit_learn(inliers, outliers)),
        rounds=rounds,
        clock=time.process_time,
    )
    candidate, reference = measures["candidate"], measures["reference"]
    difference = max(abs(candidate[name] - reference[name]) for name in reference)
    Comparison(
        what=f"five OOD metrics, {len(inliers) + len(outliers):,} scores",
        against="scikit-learn",
        measure="times as fast",
        bound=4,
        rounds=timed,
        notes=(f"largest difference of a measure: {difference:.1e}",),
    ).report()


def by_scikit_learn(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
    """The five measures as a user of scikit-learn would take them."""
    truth = np.concatenate([np.ones(len(inliers)), np.zeros(len(outliers))])
    scores = np.concatenate([inliers, outliers])
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return {
        "fpr_at_tpr95": fpr[np.argmax(tpr >= 0.95)],
        "detection_error": (0.5 * (1 - tpr) + 0.5 * fpr).min(),
        "auroc": roc_auc_score(truth, scores),
        "aupr_in": _trapezoid(truth, scores),
        "aupr_out": _trapezoid(1 - truth, -scores),
    }


def _trapezoid(truth: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(truth, scores)
    return float(auc(recall, precision))


if __name__ == "__main__":
    main()
