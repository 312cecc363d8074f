"""Names of detectors and of metrics, as a reader sees them."""

DETECTOR_TITLES = {
    "odin": "ODIN",
    "odin_default": "ODIN, untuned",
    "odin_id_only": "ODIN, without OOD data",
    "best_on_tuning": "best on tuning",
    "msp": "MSP",
    "entropy": "entropy",
    "energy": "energy",
    "gen": "GEN",
    "max_logit": "max logit",
    "max_logit_norm": "max logit, norm",
    "predicted_loss": "predicted loss",
    "calibrated": "calibrated",
    "combination": "combination",
    "mahalanobis": "Mahalanobis",
    "relative_mahalanobis": "relative Mahalanobis",
    "knn": "kNN",
    "knn_taps": "kNN of taps",
    "vim": "ViM",
    "nnguide": "NNGuide",
    "nci": "NCI",
    "fdbd": "fDBD",
    "kl_matching": "KL matching",
}
METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "spearman": "Spearman correlation with the true loss",
    "error_auroc": "AUROC for errors",
    "aurc": "AURC",
    "augrc": "AUGRC",
    "excess_aurc": "E-AURC",
    "balanced_aurc": "balanced AURC",
    "fpr_at_tpr95": "FPR@TPR95",
    "detection_error": "DTERR",
    "auroc": "AUROC",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
    "average_precision_in": "average precision, In",
    "average_precision_out": "average precision, Out",
    "coverage": "share accepted",
    "ood_share": "share called OOD",
    "error_among_accepted": "error among the accepted",
}
OF_CLASS, OF_POLICY = "sensitivity/", "policy/"
AT_LEVEL = {
    "risk_at_coverage": "error at {:g} % accepted",
    "coverage_at_risk": "share accepted at {:g} % error",
}


def metric_name(metric: str) -> str:
    """A metric in words.

    >>> metric_name("aurc"), metric_name("sensitivity/MEL"), metric_name("risk_at_coverage/0.8")
    ('AURC', 'sensitivity for MEL', 'error at 80 % accepted')
    """
    name, _, level = metric.partition("/")
    if metric.startswith(OF_CLASS):
        return f"sensitivity for {level}"
    if name in AT_LEVEL:
        return AT_LEVEL[name].format(100 * float(level))
    return METRIC_NAMES.get(metric, metric)


def detector_name(detector: str) -> str:
    """A detector, a score or a policy in words.

    >>> detector_name("msp"), detector_name("policy/0.1")
    ('MSP', 'a policy for 10 % error')
    """
    if detector.startswith(OF_POLICY):
        return f"a policy for {100 * float(detector.removeprefix(OF_POLICY)):g} % error"
    return DETECTOR_TITLES.get(detector, detector)
