"""What a reproduction measures of policies, failure scores and detectors, made up."""

from itertools import product

from misgiving.results.formats import write_table
from misgiving.results.schema import ReliabilityRow, Result, ResultInterval, RiskPoint

MODELS = ("vanilla", "mse", "detached", "proposed")
TRIALS = range(3)
TARGETS = (0.05, 0.1, 0.2)
SCORES = ("msp", "entropy", "predicted_loss", "combination")
FAILURE_METRICS = {
    "aurc": 0.1,
    "augrc": 0.08,
    "excess_aurc": 0.05,
    "balanced_aurc": 0.2,
    "error_auroc": 0.8,
    "risk_at_coverage/0.8": 0.15,
    "coverage_at_risk/0.1": 0.6,
}
OOD_METRICS = ("fpr_at_tpr95", "detection_error", "auroc", "aupr_in", "aupr_out")
SETS = ("histology", "photographs", "boxes")


def policy(trial, model, target, *, coverage=0.3, error=0.04, smallest=None):
    """The rows of one policy; one that has a smallest promise could not give its own."""
    attained = smallest is None
    values = {
        "attained": float(attained),
        "coverage": coverage * attained,
        "ood_share": 0.03,
        "calibration_cases": 200.0,
    }
    values |= {"error_among_accepted": error} if attained and error is not None else {}
    values |= {} if attained else {"smallest_certifiable_error": smallest}
    where = ("generalization", trial, model, "policy_test", f"policy/{target:g}")
    return [Result(*where, metric, value) for metric, value in values.items()]


def interval(detector, metric, *bounds, model="proposed", baseline="", **where):
    """An interval about its middle; without bounds none can be given."""
    lower, upper = bounds or (None, None)
    middle = 0.0 if lower is None else (lower + upper) / 2
    place = {"experiment": "generalization", "dataset": "policy_test", "tuned": False, **where}
    return ResultInterval(
        **place, model=model, baseline=baseline, detector=detector, metric=metric,
        estimate=middle, lower=lower, upper=upper, n=100, trials=3,
    )  # fmt: skip


def policies():
    for trial, model, target in product(TRIALS, MODELS, TARGETS):
        yield from policy(trial, model, target)
    for trial, model in product(TRIALS, MODELS):
        yield Result("generalization", trial, model, "policy_test", "msp", "acceptance_score", 1.0)


def calibrations():
    levels = {"softmax": 0.1, "scaled_softmax": 0.03, "error_probability": 0.02}
    for trial, model, (name, level) in product(TRIALS, MODELS, levels.items()):
        metrics = ("ece", "ece_width", "classwise_ece", "brier", "nll")
        for metric in metrics[:1] if name == "error_probability" else metrics:
            yield Result("generalization", trial, model, "policy_test", name, metric, level)


def failures():
    for trial, model, name in product(TRIALS, MODELS, SCORES):
        if (model, name) != ("vanilla", "predicted_loss"):
            for metric, level in FAILURE_METRICS.items():
                where = ("generalization", trial, model, "validation", name, metric)
                yield Result(*where, level)


def ood(experiment="ood_detection"):
    shares = {"validation": 0.03, "histology": 0.9, "photographs": 0.4, "boxes": 0.1}
    for trial, model, (name, share) in product(TRIALS, MODELS, shares.items()):
        yield Result(experiment, trial, model, name, "ood_rule", "ood_share", share)


def detectors():
    for trial, model in product(TRIALS, MODELS):
        chosen = "vim" if trial else "knn"
        yield Result("ood_detection", trial, model, "histology", chosen, "chosen", 1.0)
        for name, detector in product(SETS, ("best_on_tuning", "knn", "vim", "kl_matching")):
            for metric in OOD_METRICS:
                yield Result("ood_detection", trial, model, name, detector, metric, 0.7)


def bins(*, observed=0.25):
    for trial, model, step in product(TRIALS, MODELS, range(1, 6)):
        quantities = ("error_probability", "expected_loss")
        for quantity in quantities[: 1 if model == "vanilla" else 2]:
            yield ReliabilityRow("generalization", trial, model, quantity, 0.1 * step, observed, 20)


def risk_points():
    for model, name, step in product(MODELS, SCORES, range(1, 21)):
        if (model, name) != ("vanilla", "predicted_loss"):
            risk = 0.01 * step
            yield RiskPoint(model, name, step / 20, risk, 0.8 * risk, 1.2 * risk)


def write_with_policies(folder, results, intervals):
    """Write all of it beside the rows of an older run."""
    mine = [*policies(), *calibrations(), *failures(), *ood(), *detectors()]
    older = [row for row in results if row.dataset != "validation" or row.detector not in SCORES]
    write_table(folder / "results.csv", Result, [*older, *mine])
    paired = [
        interval("combination", "aurc", -0.03, -0.01, baseline="msp", dataset="validation"),
        interval("policy/0.1", "coverage", 0.28, 0.32),
    ]
    write_table(folder / "intervals.csv", ResultInterval, [*intervals, *paired])
    write_table(folder / "reliability.csv", ReliabilityRow, bins())
    write_table(folder / "risk_coverage.csv", RiskPoint, risk_points())
    return folder
