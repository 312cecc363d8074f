"""Plots for a notebook, on axes of matplotlib: what a policy certifies, and what it decided."""

from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

from misgiving.deferral.certificate import Certificate
from misgiving.deferral.decisions import Decisions
from misgiving.metrics.calibration import reliability
from misgiving.report.figures import INK, POLICY_COLOUR, SCORE_STYLES, draw_bins, draw_diagonal

PER_ROW = 5  # images in a row
ROWS = {"accept": "accepted", "defer": "deferred", "ood": "out-of-distribution"}
COLOUR, _ = SCORE_STYLES["predicted_loss"]


def plot_certificate(certificate: Certificate, axes: Axes | None = None) -> Axes:
    """Risk against coverage on the calibration cases, the bound, the target and the policy.

    Args:
        certificate: Of one threshold for all; with `for_each`, of one value.
        axes: To draw on; None: new ones.

    Returns:
        The axes. The bounds hold for all points at once; the policy's own threshold was tested by
        itself, and meets its target where its bound does not.
    """
    axes = axes or pyplot.subplots(layout="constrained")[1]
    points = [point for point in certificate.operating_points if point.error is not None]
    coverage, error, bound = (
        100
        * np.array([(point.coverage, point.error, point.bound) for point in points], dtype=float)
        .reshape(-1, 3)
        .T
    )
    axes.plot(coverage, error, color=COLOUR, label="calibration cases")
    axes.plot(
        coverage, bound, color=COLOUR, linestyle=":", label="at most (all thresholds at once)"
    )
    target, shown = certificate.targets.max_error, [*error, 5.0]
    if target is not None:
        axes.axhline(100 * target, color=INK, linestyle="--", linewidth=1.0, label="target")
        shown.append(100 * target)
    if certificate.accepted:
        share = certificate.accepted_images / len(certificate.images.scores)
        wrong = 100 * certificate.wrong / certificate.accepted
        up = [[0.0], [0.0 if target is None else max(100 * target - wrong, 0.0)]]
        style: dict[str, Any] = {"color": POLICY_COLOUR, "markersize": 8, "capsize": 5}
        label = "the policy" if target is None else "the policy, up to its target"
        axes.errorbar(100 * share, wrong, yerr=up, fmt="o", label=label, **style)
    axes.set(xlabel="accepted (%)", ylabel="wrong of the accepted (%)", xlim=(0, 101))
    axes.set_ylim(0, 1.5 * max(shown))  # the bounds of the first few cases reach 100 %
    axes.legend()
    return axes


def plot_decisions(decisions: Decisions, labels: Any = None, axes: Axes | None = None) -> Axes:
    """Scores of the accepted and of other cases; with labels, how reliable probabilities are.

    Args:
        decisions: Of cases.
        labels: Of their true classes, as `Decisions.wrong` takes them.
        axes: To draw on; None: new ones.

    Returns:
        The axes: a histogram with the threshold; or observed shares of right answers over those
        that are predicted.
    """
    axes = axes or pyplot.subplots(layout="constrained")[1]
    if labels is not None:
        predicted = decisions.answer_probabilities[np.arange(len(decisions)), decisions.answered]
        finite = np.isfinite(predicted)
        right = ~decisions.wrong(labels)[finite]
        bins = reliability(predicted[finite], right.astype(float), bins=10)
        draw_bins(axes, 100 * bins.predicted, 100 * bins.observed, bins.counts.astype(float))
        axes.set(xlabel="predicted (%)", ylabel="right answers (%)")
        draw_diagonal([axes])
        return axes
    scores = {}
    for decision, name in ROWS.items():
        values = decisions.acceptance_score[decisions.decisions == decision]
        if len(values):
            scores[f"{name} ({len(values)})"] = values[np.isfinite(values)]
    axes.hist([*scores.values()], bins=30, stacked=True, label=[*scores])
    for threshold in filter(np.isfinite, decisions.thresholds):
        axes.axvline(threshold, color=INK, linestyle="--", linewidth=1.0)
    axes.set(xlabel="acceptance score", ylabel="cases")
    axes.legend()
    return axes


def plot_examples(decisions: Decisions, images: Any) -> Any:
    """The accepted cases with the highest score, and the others with the lowest, as images.

    Args:
        decisions: Of cases.
        images: For each an image, as `Axes.imshow` takes it.

    Returns:
        Axes, a row for each decision that there is.
    """
    rows = {}
    for decision, name in ROWS.items():
        chosen = np.flatnonzero(decisions.decisions == decision)
        order = np.argsort(decisions.acceptance_score[chosen])
        rows[name] = chosen[order[::-1] if decision == "accept" else order][:PER_ROW].tolist()
    rows = {name: chosen for name, chosen in rows.items() if chosen}
    size = 1.6 * PER_ROW, 1.9 * len(rows)
    _, panels = pyplot.subplots(
        len(rows), PER_ROW, squeeze=False, figsize=size, layout="constrained"
    )
    for axes in panels.flat:
        axes.axis("off")
    for row, (name, chosen) in zip(panels, rows.items(), strict=True):
        for axes, case in zip(row, chosen, strict=False):
            axes.imshow(images[case], cmap="gray")
            axes.set_title(f"{name}: {decisions[case].answer}", fontsize=8)
    return panels
