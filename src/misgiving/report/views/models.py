"""Tables of Section 4.1: classes, learning rates, scores, deferral policies and calibration."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from misgiving.metrics.selective import BY_GROUPS, BY_IMAGES
from misgiving.report.findings import MINUS, PLAIN, POINTS, Scale
from misgiving.report.findings.detectors import MSP
from misgiving.report.findings.sweep import (
    SWEPT,
    SweptRun,
    sweep_of,
)
from misgiving.report.findings.target_errors import (
    TargetResult,
    TargetStatus,
    interval_of,
    met_in,
    target_status,
    targets_of,
)
from misgiving.report.inputs import (
    ReportInputs,
    distinct,
    find,
    models_of,
    select,
    spread_of,
)
from misgiving.report.names import DETECTOR_TITLES
from misgiving.report.views import (
    ABSENT,
    DOWN,
    UP,
    Block,
    Cell,
    Line,
    Table,
    comparison_table,
    detectors_of,
    difference,
    estimate,
    estimates,
    group,
    heads,
    interval_like,
    mean,
    number,
)
from misgiving.report.wording import count
from misgiving.results.schema import POLICY_SET, Result

Metrics = Mapping[str, tuple[str, Scale]]
QUANTITIES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
ESTIMATION: Metrics = {
    "spearman": (f"Spearman {UP}", PLAIN),
    "spearman_plain": (f"Spearman, plain loss {UP}", PLAIN),
    "order_agreement": (f"Order agreement {UP}", PLAIN),
}
ERROR_DETECTION: Metrics = {
    "aurc": (f"AURC {DOWN}", PLAIN),
    "augrc": (f"AUGRC {DOWN}", PLAIN),
    "excess_aurc": (f"E-AURC {DOWN}", PLAIN),
    "balanced_aurc": (f"Balanced AURC {DOWN}", PLAIN),
    "error_auroc": (f"Error AUROC, % {UP}", POINTS),
    "risk_at_coverage/0.8": (f"Error at 80 % accepted, % {DOWN}", POINTS),
    "coverage_at_risk/0.1": (f"Accepted at 10 % error, % {UP}", POINTS),
}
FROM_MSP: Metrics = {
    "aurc": (f"AURC {MINUS} MSP's", PLAIN),
    "error_auroc": (f"Error AUROC {MINUS} MSP's", POINTS),
}

CALIBRATION: Metrics = {
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


def classification_table(inputs: ReportInputs) -> Table | None:
    """Balanced accuracy, accuracy and the sensitivity of each class, by model."""
    rows = select(inputs.results, experiment="generalization", dataset=inputs.measured, detector="")
    measured = distinct(rows, "metric")
    classes = [f"sensitivity/{name}" for name in inputs.settings.classes]
    others = [name for name in measured if name.startswith("sensitivity/")]
    metrics = [name for name in dict.fromkeys([*QUANTITIES, *classes, *others]) if name in measured]
    return comparison_table(inputs, [_quantity(inputs, metric) for metric in metrics], "Quantity")


def _quantity(inputs: ReportInputs, metric: str) -> Block:
    """A line of the table; a class with its images in each set and its measured groups."""
    wanted = {"experiment": "generalization", "dataset": inputs.measured, "detector": ""}
    wanted["metric"] = metric
    name = QUANTITIES.get(metric, metric.removeprefix("sensitivity/"))
    sets = {} if metric in QUANTITIES else inputs.settings.class_counts.get(name, {})
    tags = [", ".join(f"{set_name} {images:,}" for set_name, images in sets.items())]
    facts = inputs.datasets.get(inputs.measured)
    images = facts.images if facts and metric in QUANTITIES else sets.get(inputs.measured)
    interval = find(inputs.intervals, model="proposed", **wanted)
    tags += [count(interval.n, "groups")] if interval and interval.n not in (0, images) else []
    return Block(name, list(filter(None, tags)), [Line("", wanted)])


def convergence_table(inputs: ReportInputs) -> Table | None:
    """Epochs to the level, and final balanced accuracy, trial by trial."""
    sweep = sweep_of(inputs)
    if sweep is None:
        return None
    numbers = (
        "Epochs to the level, per trial",
        "Final balanced accuracy, per trial",
        "Mean",
        "Diverged",
    )
    bodies = [
        group(
            f"{rate:g}",
            [
                [Cell(model), *_convergence(runs)]
                for model in SWEPT
                if (runs := sweep.at(rate, model))
            ],
            ["the protocol's own"] if rate == sweep.own_rate else [],
        )
        for rate in sweep.rates
    ]
    return Table([heads("Learning rate", "Model", numbers=numbers)], bodies)


def _convergence(runs: Sequence[SweptRun]) -> list[Cell]:
    finals = [ABSENT if run.final is None else POINTS.number(run.final) for run in runs]
    return [
        number(", ".join(str(run.epochs or "never") for run in runs)),
        number(", ".join(finals)),
        mean(spread_of([run.final for run in runs if run.final is not None]), POINTS),
        number(f"{sum(run.diverged for run in runs)} of {len(runs)}"),
    ]


def estimation_table(inputs: ReportInputs) -> Table | None:
    """The rank correlation of predicted and true losses, beside that of MSP."""
    return _score_table(inputs, _measured(inputs, ESTIMATION), ESTIMATION)


def error_detection_table(inputs: ReportInputs) -> Table | None:
    """Every acceptance score of every model, and its paired difference from MSP."""
    rows = _measured(inputs, ERROR_DETECTION)
    present = distinct(rows, "metric")
    metrics = {name: words for name, words in ERROR_DETECTION.items() if name in present}
    pairs = distinct(select(inputs.intervals, baseline=MSP), "metric")
    paired = {name: words for name, words in FROM_MSP.items() if name in pairs}
    return _score_table(inputs, rows, metrics, paired=paired)


def _measured(inputs: ReportInputs, metrics: Metrics) -> list[Result]:
    rows = select(inputs.results, experiment="generalization", dataset=inputs.measured)
    return [row for row in rows if row.detector and row.metric in metrics]


def _score_table(
    inputs: ReportInputs,
    rows: Sequence[Result],
    metrics: Metrics,
    *,
    paired: Metrics | None = None,
    quantities: Mapping[str, str] | None = None,
) -> Table | None:
    """A row for each score or quantity of each model: metrics, and paired differences from MSP."""
    pairs = paired or {}
    words = quantities or {name: DETECTOR_TITLES.get(name, name) for name in detectors_of(rows)}

    def cells(here: list[Result]) -> list[Cell]:
        return [
            Cell(words[here[0].detector]),
            *estimates(inputs, here, metrics),
            *(
                difference(interval_like(inputs, here[0], metric=name, baseline=MSP), scale)
                for name, (_, scale) in pairs.items()
            ),
        ]

    numbers = [name for name, _ in (*metrics.values(), *pairs.values())]
    bodies = []
    for model in models_of(rows):
        lines = [select(rows, model=model, detector=name) for name in words]
        bodies.append(group(model, list(map(cells, filter(None, lines)))))
    second = "Quantity" if quantities else "Score"
    return Table([heads("Model", second, numbers=numbers)], bodies) if rows else None


def errors_per_trial(inputs: ReportInputs) -> list[float]:
    """The fewest and the most wrongly classified images of a trial; empty where not counted."""
    rows = select(inputs.results, experiment="generalization", dataset=inputs.measured)
    counts = [row.value for row in select(rows, metric="errors")]
    return [min(counts), max(counts)] if counts else []


def target_table(inputs: ReportInputs) -> Table | None:
    """Coverage and error of every target, by model."""
    targets = targets_of(inputs.results)
    if not targets:
        return None
    errors = {"": BY_IMAGES}
    if any(target.error == BY_GROUPS for target in targets):
        errors = {", one image of each group": BY_GROUPS, ", all images": BY_IMAGES}
    first = heads(
        "Model",
        numbers=(
            "Target error, at most %",
            "Certified in trials",
            f"Accepted, % {UP}",
            *(f"Errors among these{which}, % {DOWN}" for which in errors),
        ),
    )
    last = ("Smallest certifiable error, %", f"Called OOD, % {DOWN}", "Calibration cases")
    scores = select(inputs.results, dataset=POLICY_SET, metric="acceptance_score")
    bodies = []
    for model in dict.fromkeys(target.model for target in targets):
        names = distinct(select(scores, model=model), "detector")
        score = " or ".join(DETECTOR_TITLES.get(name, name) for name in names)
        own = [target for target in targets if target.model == model]
        lines = [_target(inputs, target, errors.values()) for target in own]
        bodies.append(group(model, lines, [f"accepts by {score}"] if score else []))
    return Table([[*first, *heads("Target met?", numbers=last)]], bodies)


def _target(inputs: ReportInputs, target: TargetResult, errors: Iterable[str]) -> list[Cell]:
    over = partial(_over_trials, inputs, target)
    cases = [f"{cases:g}" for cases in target.values("calibration_cases")]
    status = target_status(inputs.intervals, target)
    met = f"met in {met_in(target)}, no interval" if status is TargetStatus.NO_INTERVAL else status
    return [
        number(f"{100 * target.target:g}"),
        number(f"{target.certified} of {len(target.policies)}"),
        over("coverage", target.values("coverage")),
        *(over(name, target.values(name, certified=True)) for name in errors),
        Cell(met),
        number(_listed(target.smallest)),
        over("ood_share", target.values("ood_share")),
        number(", ".join(dict.fromkeys(cases)) or ABSENT),
    ]


def _over_trials(
    inputs: ReportInputs, target: TargetResult, metric: str, values: Sequence[float]
) -> Cell:
    """A value with its interval, or the trials that have one."""
    found = interval_of(inputs.intervals, target, metric)
    if found is None:
        return number(_listed(values), "(no interval)" if values else "")
    return estimate(found, spread_of(values), POINTS)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(POINTS.number, values)) or ABSENT


def diverged(inputs: ReportInputs) -> list[str]:
    """The trials of a model in Section 4.1 that have no numbers, as its training diverged."""
    return _named(_diverged_trials(inputs))


def uncalibrated(inputs: ReportInputs) -> list[str]:
    """The trials of a model that have no policy, though its classifier was measured."""
    rows = select(inputs.results, experiment="generalization")
    trained = {(row.model, row.trial) for row in select(rows, dataset=inputs.measured)}
    held = {(row.model, row.trial) for row in select(rows, dataset=POLICY_SET)}
    return _named(trained - held - _diverged_trials(inputs))


def _diverged_trials(inputs: ReportInputs) -> set[tuple[str, int]]:
    rows = select(inputs.results, experiment="generalization", metric="diverged")
    return {(row.model, row.trial) for row in rows if row.value}


def _named(trials: Iterable[tuple[str, int]]) -> list[str]:
    return [f"{model}, trial {trial}" for model, trial in sorted(trials)]


def calibration_rows(inputs: ReportInputs) -> list[Result]:
    """The calibration errors of the probabilities that are shown with a decision."""
    rows = select(inputs.results, experiment="generalization", dataset=POLICY_SET)
    return [row for row in rows if row.detector in SHOWN and row.metric in CALIBRATION]


def calibration_table(inputs: ReportInputs) -> Table | None:
    """The calibration errors by model; they have no intervals."""
    return _score_table(inputs, calibration_rows(inputs), CALIBRATION, quantities=SHOWN)
