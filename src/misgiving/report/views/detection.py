"""Tables of Sections 4.2 and 4.3: ODIN and other OOD detectors on every set."""

from collections.abc import Sequence

from misgiving.report.findings import BASELINES, POINTS, Scale
from misgiving.report.inputs import ReportInputs, distinct, models_of, select, spread
from misgiving.report.names import DETECTOR_TITLES
from misgiving.report.published import title
from misgiving.report.views import (
    DOWN,
    TUNED,
    UP,
    Block,
    Cell,
    Line,
    Table,
    comparison_table,
    detectors_of,
    difference,
    estimates,
    group,
    heads,
    mean,
    minus,
    pair_of,
    set_tags,
    value,
)
from misgiving.results.schema import CHOSEN, UNSEEN_SET, Result

METRICS: dict[str, tuple[str, Scale]] = {
    "fpr_at_tpr95": (f"FPR@TPR95 {DOWN}", POINTS),
    "detection_error": (f"DTERR {DOWN}", POINTS),
    "auroc": (f"AUROC {UP}", POINTS),
    "aupr_in": (f"AUPR-In {UP}", POINTS),
    "aupr_out": (f"AUPR-Out {UP}", POINTS),
}
NAMES = [name for name, _ in METRICS.values()]
MAIN = {name: METRICS[name] for name in ("auroc", "fpr_at_tpr95")}
COMPARED = (CHOSEN, "odin", "msp")
ODINS = {"odin": "tuned", "odin_default": "untuned", "odin_id_only": "without OOD images"}
TUNED_HERE = {"odin": "tuned here", CHOSEN: "chosen here"}


def odin_table(inputs: ReportInputs) -> Table | None:
    """Five metrics on each set: the models, and below them their differences."""
    rows = select(inputs.results, experiment="ood_detection", detector="odin")
    rows = [row for row in rows if row.metric in METRICS]
    bodies = [_odin_rows(inputs, select(rows, dataset=d)) for d in distinct(rows, "dataset")]
    return Table([heads("Set", "Model", numbers=NAMES)], bodies) if bodies else None


def _odin_rows(inputs: ReportInputs, rows: Sequence[Result]) -> list[list[Cell]]:
    dataset, models = rows[0].dataset, models_of(rows)
    wanted = {"experiment": "ood_detection", "dataset": dataset, "detector": "odin"}
    lines = [Line(metric, {**wanted, "metric": metric}) for metric in METRICS]
    cells = [[Cell(model), *(value(inputs, line, model) for line in lines)] for model in models]
    cells += [
        [Cell(minus(name)), *(difference(pair_of(inputs, name, line), POINTS) for line in lines)]
        for name in BASELINES
        if {name, "proposed"} <= set(models)
    ]
    return group(title(dataset), cells, set_tags(inputs, dataset))


def tuning_table(inputs: ReportInputs) -> Table | None:
    """AUROC of ODIN tuned, untuned, and tuned without OOD images."""
    rows = select(inputs.results, experiment="ood_detection", metric="auroc")
    rows = [row for row in rows if row.detector in ODINS]
    if len(distinct(rows, "detector")) < 2:
        return None
    blocks = _auroc_blocks(inputs, rows, ODINS)
    return comparison_table(inputs, blocks, "Set", "ODIN", models=(*BASELINES, "proposed"))


def unseen_table(inputs: ReportInputs) -> Table | None:
    """AUROC for unseen classes, by each ODIN and by the detector chosen on the tuning set."""
    rows = select(inputs.results, experiment="new_classes", metric="auroc")
    names = [name for name in DETECTOR_TITLES if name in ODINS or name == CHOSEN]
    blocks = _auroc_blocks(inputs, rows, {name: DETECTOR_TITLES[name] for name in names})
    return comparison_table(inputs, blocks, "Set", "Detector")


def _auroc_blocks(
    inputs: ReportInputs, rows: Sequence[Result], names: dict[str, str]
) -> list[Block]:
    """A block for each set, with a line for each of these detectors that is there."""
    blocks = []
    for dataset in distinct(rows, "dataset"):
        here = select(rows, dataset=dataset)
        wanted = {"experiment": here[0].experiment, "dataset": dataset, "metric": "auroc"}
        present = distinct(here, "detector")
        lines = [
            Line(words, {**wanted, "detector": name})
            for name, words in names.items()
            if name in present
        ]
        if lines:
            blocks.append(Block(title(dataset), set_tags(inputs, dataset), lines))
    return blocks


def accuracies(inputs: ReportInputs) -> list[str]:
    """Balanced accuracy of the models of 4.2 on their own classes, trial by trial."""
    rows = select(inputs.results, experiment="ood_detection", dataset=inputs.measured, detector="")
    rows = select(rows, metric="balanced_accuracy")
    return [
        f"{model} {', '.join(POINTS.number(row.value) for row in select(rows, model=model))}"
        for model in models_of(rows)
    ]


def odin_choices(inputs: ReportInputs) -> list[str]:
    """ODIN's tuned temperature and epsilon by model, trial by trial."""
    rows = select(inputs.results, experiment="ood_detection", detector="odin")
    clauses = []
    for model in models_of(select(rows, metric="temperature")):
        epsilons = {row.trial: row.value for row in select(rows, model=model, metric="epsilon")}
        chosen = [
            f"{row.value:g} / {epsilons.get(row.trial, float('nan')):g}"
            for row in select(rows, model=model, metric="temperature")
        ]
        same = len(set(chosen)) == 1
        clauses.append(f"{model} {f'{chosen[0]} in each' if same else ', '.join(chosen)}")
    return clauses


def detector_choices(inputs: ReportInputs) -> list[str]:
    """The detector with the highest AUROC on the tuning set by model, trial by trial."""
    named = select(inputs.results, experiment="ood_detection", metric="chosen")
    clauses = []
    for model in models_of(named):
        rows = sorted(select(named, model=model), key=lambda row: row.trial)
        chosen = [DETECTOR_TITLES.get(row.detector, row.detector) for row in rows]
        same = len(set(chosen)) == 1
        clauses.append(f"{model} {f'{chosen[0]} in each' if same else ' / '.join(chosen)}")
    return clauses


def all_detectors(inputs: ReportInputs) -> list[Result]:
    """All detectors on the sets of 4.2, and on all unseen classes of 4.3 together."""
    rows = [row for row in inputs.results if row.metric in METRICS and row.detector]
    sets = select(rows, experiment="ood_detection")
    return sets + select(rows, experiment="new_classes", dataset=UNSEEN_SET)


def untuned_sets(inputs: ReportInputs) -> list[str]:
    """The sets on which no detector was tuned or chosen."""
    return [name for name in distinct(all_detectors(inputs), "dataset") if name not in inputs.tuned]


def chosen_table(inputs: ReportInputs) -> Table:
    """The chosen detector beside ODIN and MSP, on the sets that did not choose it."""
    first = [Cell(text, scope="col", rows=2) for text in ("Set", "Model")]
    wide = [Cell(DETECTOR_TITLES[name], scope="col", columns=len(MAIN)) for name in COMPARED]
    names = [name for _ in COMPARED for name, _ in MAIN.values()]
    rows = all_detectors(inputs)
    bodies = []
    for dataset in untuned_sets(inputs):
        here = select(rows, dataset=dataset)
        lines = []
        for model in models_of(select(here, detector=CHOSEN)):
            own = select(here, model=model)
            found = [estimates(inputs, select(own, detector=name), MAIN) for name in COMPARED]
            lines.append([Cell(model), *(cell for cells in found for cell in cells)])
        if lines:
            bodies.append(group(title(dataset), lines, set_tags(inputs, dataset)))
    return Table([[*first, *wide], heads(numbers=names)], bodies)


def detector_tables(inputs: ReportInputs) -> dict[str, Table]:
    """All metrics of all detectors, a table for each model."""
    rows = all_detectors(inputs)
    return {
        model: Table(
            [heads("Set", "Detector", numbers=NAMES)],
            [_detector_rows(inputs, select(own, dataset=d)) for d in distinct(own, "dataset")],
        )
        for model in models_of(rows)
        for own in [select(rows, model=model)]
    }


def _detector_rows(inputs: ReportInputs, rows: Sequence[Result]) -> list[list[Cell]]:
    dataset, lines = rows[0].dataset, []
    is_tuned = dataset in inputs.tuned
    for detector in detectors_of(rows):
        name, here = DETECTOR_TITLES.get(detector, detector), TUNED_HERE.get(detector)
        words = f"{name} ({here})" if is_tuned and here else name
        lines.append([Cell(words), *estimates(inputs, select(rows, detector=detector), METRICS)])
    return group(title(dataset), lines, [TUNED] if is_tuned else [])


def ood_rule_table(inputs: ReportInputs) -> Table | None:
    """The share of each set that the OOD rule calls OOD."""
    rows = select(inputs.results, detector="ood_rule", metric="ood_share")
    models, bodies = models_of(rows), []
    for dataset in distinct(rows, "dataset"):
        measured = dataset == inputs.measured
        shown = f"{dataset} (in-distribution classes)" if measured else dataset
        here = select(rows, dataset=dataset)
        cells = [mean(spread(select(here, model=model)), POINTS) for model in models]
        kind = Cell(f"false alarms {DOWN}" if measured else f"detected {UP}")
        tags = [tag for tag in set_tags(inputs, shown) if tag != TUNED]
        bodies.append(group(title(dataset), [[kind, *cells]], tags))
    return Table([heads("Set", "Kind", numbers=models)], bodies) if bodies else None
