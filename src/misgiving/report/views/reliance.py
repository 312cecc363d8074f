"""Tables of deferral policies and of calibration."""

from collections.abc import Sequence

from misgiving.report.figures.style import DETECTORS
from misgiving.report.findings.outcomes import PLAIN, POINTS, Scale
from misgiving.report.findings.targets import (
    POLICY_SET,
    TargetResult,
    Verdict,
    interval_of,
    met_in,
    verdict_of,
)
from misgiving.report.inputs import ReportInputs
from misgiving.report.rows import distinct, models_of, select, spread_of
from misgiving.report.views.cells import (
    ABSENT,
    DOWN,
    UP,
    Cell,
    Table,
    estimate,
    estimates,
    group,
    heads,
    number,
)
from misgiving.results.schema import Result

CALIBRATION: dict[str, tuple[str, Scale]] = {
    "ece": (f"ECE, equal mass {DOWN}", PLAIN),
    "ece_width": (f"ECE, equal width {DOWN}", PLAIN),
    "classwise_ece": (f"Classwise ECE {DOWN}", PLAIN),
    "brier": (f"Brier {DOWN}", PLAIN),
    "nll": (f"NLL {DOWN}", PLAIN),
}
SHOWN = {
    "softmax": "class probabilities, before scaling",
    "scaled_softmax": "class probabilities, scaled",
    "error_probability": "error probability",
    "expected_loss": "expected loss (nats)",
}


def target_table(inputs: ReportInputs, targets: Sequence[TargetResult]) -> Table:
    """Coverage and error of every target, by model."""
    first = heads(
        "Model",
        numbers=(
            "Target error, at most %",
            "Certified in trials",
            f"Accepted, % {UP}",
            f"Errors among these, % {DOWN}",
        ),
    )
    last = ("Smallest certifiable error, %", f"Called OOD, % {DOWN}", "Calibration cases")
    scores = select(inputs.results, dataset=POLICY_SET, metric="accepted_by")
    bodies = []
    for model in dict.fromkeys(target.model for target in targets):
        names = distinct(select(scores, model=model), "detector")
        score = " / ".join(DETECTORS.get(name, name) for name in names)
        lines = [_target(inputs, target) for target in targets if target.model == model]
        bodies.append(group(model, lines, [f"accepts by {score}"] if score else []))
    return Table([[*first, *heads("Target met?", numbers=last)]], bodies)


def _target(inputs: ReportInputs, target: TargetResult) -> list[Cell]:
    policies = target.policies
    cases = [f"{policy.cases:g}" for policy in policies if policy.cases is not None]
    shares = [policy.ood for policy in policies if policy.ood is not None]
    verdict = verdict_of(inputs.intervals, target)
    met = f"met in {met_in(target)}, no interval" if verdict is Verdict.NO_INTERVAL else verdict
    return [
        number(f"{100 * target.target:g}"),
        number(f"{len(target.certified)} of {len(policies)}"),
        _measured(inputs, target, "coverage", [policy.coverage for policy in policies]),
        _measured(inputs, target, "error_among_accepted", target.errors),
        Cell(met),
        number(_listed(target.smallest)),
        _measured(inputs, target, "ood_share", shares),
        number(", ".join(dict.fromkeys(cases)) or ABSENT),
    ]


def _measured(
    inputs: ReportInputs, target: TargetResult, metric: str, values: Sequence[float]
) -> Cell:
    """A value with its interval, or the trials that have one."""
    found = interval_of(inputs.intervals, target, metric)
    if found is None:
        return number(_listed(values), "(no interval)" if values else "")
    return estimate(found, spread_of(values), POINTS)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(POINTS.number, values)) or ABSENT


def uncalibrated(inputs: ReportInputs) -> list[str]:
    """The trials of a model that have no policy, though its classifier was measured."""
    rows = select(inputs.results, experiment="generalization")
    trained = {(row.model, row.trial) for row in select(rows, dataset=inputs.measured)}
    held = {(row.model, row.trial) for row in select(rows, dataset=POLICY_SET)}
    return [f"{model}, trial {trial}" for model, trial in sorted(trained - held)]


def calibration_rows(inputs: ReportInputs) -> list[Result]:
    """The calibration errors of the probabilities that are shown with a decision."""
    rows = select(inputs.results, experiment="generalization", dataset=POLICY_SET)
    return [row for row in rows if row.detector in SHOWN and row.metric in CALIBRATION]


def calibration_table(inputs: ReportInputs) -> Table | None:
    """The calibration errors by model; they have no intervals."""
    rows = calibration_rows(inputs)
    numbers = [name for name, _ in CALIBRATION.values()]
    bodies = [
        group(
            model,
            [
                [Cell(words), *estimates(inputs, here, CALIBRATION)]
                for name, words in SHOWN.items()
                if (here := select(rows, model=model, detector=name))
            ],
        )
        for model in models_of(rows)
    ]
    return Table([heads("Model", "Quantity", numbers=numbers)], bodies) if rows else None
