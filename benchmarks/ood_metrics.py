"""The measures of out-of-distribution detection: ours against scikit-learn's, on the same scores.

    OMP_NUM_THREADS=1 python benchmarks/ood_metrics.py [--scores 1000000] [--rounds 7]

Both sides run in one process, and take turns in going first. Scikit-learn is used as its
documentation does: one ROC curve for the FPR at 95 % TPR and for the detection error,
`roc_auc_score`, and the trapezoid over the precision-recall curve for either set as positives.
Prints the median ratio of the times with its range and the largest difference of a measure, then
the seconds that every measure takes. Times are the processor's: a busy machine adds less to them.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from side_by_side import Comparison, alternate
from sklearn.metrics import auc, precision_recall_curve, roc_auc_score, roc_curve

from misgiving.metrics import calibration, classification, loss_estimation
from misgiving.metrics.ood import ood_metrics
from misgiving.metrics.selective import RiskCoverage

CLASSES = 8


def main() -> None:
    """Time both sides in turn, compare what they find, and time every measure once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scores", type=int, default=1_000_000, help="in each set")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--decimals", type=int, help="round the scores, so that many are tied")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    inliers, outliers = random.normal(1, 1, options.scores), random.normal(0, 1, options.scores)
    if options.decimals is not None:
        inliers, outliers = inliers.round(options.decimals), outliers.round(options.decimals)
    _compare(inliers, outliers, options.rounds)
    for name, measure in _measures(inliers, random):
        seconds = [_timed(measure) for _ in range(options.rounds)]
        print(f"{name}: {median(seconds):.3f} s (up to {max(seconds):.3f} s)")


def _compare(inliers: np.ndarray, outliers: np.ndarray, rounds: int) -> None:
    measures: dict[str, dict[str, float]] = {}
    timed = alternate(
        lambda: measures.update(candidate=ood_metrics(inliers, outliers)),
        lambda: measures.update(reference=scikit_learn(inliers, outliers)),
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
        notes=(
            f"largest difference of a measure: {difference:.1e}",
            "the clock is the processor's time",
        ),
    ).report()


def scikit_learn(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
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


def _measures(
    confidences: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every other public measure, on as many samples as there are confidences."""
    count = len(confidences)
    errors, true = random.random(count) < 0.2, random.exponential(size=count)
    yield from _of_confidences(confidences, errors, random.integers(CLASSES, size=count))
    for of_losses in ("spearman", "order_agreement", "spread_ratio", "r_squared"):
        measure = getattr(loss_estimation, of_losses)
        yield of_losses, lambda measure=measure: measure(confidences, true)
    yield from _of_probabilities(random.dirichlet(np.ones(CLASSES), size=count), random)


def _of_confidences(
    confidences: np.ndarray, errors: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, Callable[[], Any]]]:
    arguments: dict[str, tuple[Any, ...]] = {"aurc": (), "excess_aurc": (), "augrc": ()}
    arguments |= {"risk_at_coverage": (0.2,), "coverage_at_risk": (0.2,)}
    for name, given in arguments.items():
        yield (
            name,
            lambda name=name, given=given: getattr(RiskCoverage(confidences, errors), name)(*given),
        )
    yield (
        "balanced_aurc",
        lambda: RiskCoverage(confidences, errors).balanced_aurc(labels, num_classes=CLASSES),
    )
    yield "error_auroc", lambda: loss_estimation.error_auroc(confidences, errors)


def _of_probabilities(
    rows: np.ndarray, random: np.random.Generator
) -> Iterator[tuple[str, Callable[[], Any]]]:
    labels, column = random.integers(CLASSES, size=len(rows)), rows[:, 0].copy()
    for scheme in ("mass", "width"):
        yield (
            f"expected_calibration_error of {scheme}",
            lambda scheme=scheme: calibration.expected_calibration_error(
                column, labels == 0, scheme=scheme
            ),
        )
        yield (
            f"classwise_calibration_error of {scheme}",
            lambda scheme=scheme: calibration.classwise_calibration_error(
                rows, labels, scheme=scheme
            ),
        )
    for name in ("brier_score", "negative_log_likelihood"):
        measure = getattr(calibration, name)
        yield name, lambda measure=measure: measure(rows, labels)
    yield "macro_auroc", lambda: classification.macro_auroc(labels, rows)
    predicted = rows.argmax(axis=1)
    yield "accuracy", lambda: classification.accuracy(labels, predicted)
    for name in ("sensitivities", "balanced_accuracy"):
        measure = getattr(classification, name)
        yield name, lambda measure=measure: measure(labels, predicted, num_classes=CLASSES)


def _timed(measure: Callable[[], Any]) -> float:
    started = time.process_time()
    measure()
    return time.process_time() - started


if __name__ == "__main__":
    main()
