"""Names of detectors and metrics in the report of a reproduction, and the units of metrics."""

from collections.abc import Iterable

from misgiving.report.rendering import DETECTOR_TITLES, PLAIN, POINTS, Scale
from misgiving.reproduction.config import CHOSEN

DETECTOR_NAMES = {
    "odin": "ODIN",
    "odin_default": "ODIN, untuned",
    "odin_id_only": "ODIN, without OOD images",
    CHOSEN: "best on tuning",
    **DETECTOR_TITLES,
}
METRIC_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "spearman": "Spearman correlation{of} with the true loss",
    "error_auroc": "AUROC{of} for errors",
    "aurc": "AURC{of}",
    "augrc": "AUGRC{of}",
    "excess_aurc": "E-AURC{of}",
    "balanced_aurc": "balanced AURC{of}",
    "fpr_at_tpr95": "FPR@TPR95{of}",
    "detection_error": "DTERR{of}",
    "auroc": "AUROC{of}",
    "aupr_in": "AUPR-In{of}",
    "aupr_out": "AUPR-Out{of}",
    "average_precision_in": "average precision (in){of}",
    "average_precision_out": "average precision (out){of}",
    "coverage": "share accepted{by}",
    "ood_share": "share called OOD{by}",
    "error_among_accepted": "error among the images accepted{by}",
    "error_per_group": "error among the accepted{by}, one image of each group",
    "risk_at_coverage": "error at {level:g} % accepted{by}",
    "coverage_at_risk": "share accepted{by} at {level:g} % error",
}
SENSITIVITY, OF_POLICY, CERTIFIED = "sensitivity/", "policy/", "certified/"


def metric_name(metric: str, detector: str = "") -> str:
    """A metric in words, with the detector, score or policy that it measures if there is one.

    >>> metric_name("sensitivity/MEL"), metric_name("aurc", "msp")
    ('sensitivity for MEL', 'AURC of MSP')
    >>> metric_name("coverage_at_risk/0.05", "msp")
    'share accepted by MSP at 5 % error'
    """
    name, _, level = metric.partition("/")
    if metric.startswith(SENSITIVITY):
        return f"sensitivity for {level}"
    words = {w: f" {w} {detector_name(detector)}" if detector else "" for w in ("of", "by")}
    if name not in METRIC_NAMES:
        return f"{metric}{words['of']}"
    return METRIC_NAMES[name].format(**words, level=100 * float(level or 0))


def detector_name(detector: str) -> str:
    """A detector, a score or a policy in words.

    >>> detector_name("msp"), detector_name("policy/0.1"), detector_name("certified/msp/0.1")
    ('MSP', 'a policy for 10 % error', 'MSP, certified for 10 % error')
    """
    if detector.startswith(CERTIFIED):
        score, target = detector.removeprefix(CERTIFIED).split("/")
        return f"{detector_name(score)}, certified for {100 * float(target):g} % error"
    if detector.startswith(OF_POLICY):
        return f"a policy for {100 * float(detector.removeprefix(OF_POLICY)):g} % error"
    return DETECTOR_NAMES.get(detector, detector)


RATIO = Scale(1.0, 2, "")
WITHOUT_UNIT = frozenset(
    {
        *("spearman", "spearman_plain", "order_agreement"),
        *("aurc", "augrc", "excess_aurc", "balanced_aurc"),
        *("ece", "ece_width", "classwise_ece", "brier", "nll"),
    }
)


def scale_of(metric: str) -> Scale:
    """Scale on which a metric is written: in points, or as it is."""
    return PLAIN if metric in WITHOUT_UNIT else POINTS


def listed(values: Iterable[object]) -> str:
    """Values as text.

    >>> listed([1, 0.0014, 1e-5]), listed([])
    ('1, 0.0014, 1e-05', 'none')
    """
    texts = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return ", ".join(texts) or "none"
