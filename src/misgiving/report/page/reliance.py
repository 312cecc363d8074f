"""May I rely on it? What can be promised of answers, of OOD images, and of probabilities."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from misgiving.report import markup, tables
from misgiving.report.figures import DETECTORS
from misgiving.report.inputs import Material
from misgiving.report.page.calibration import calibration
from misgiving.report.page.comparisons import set_tags
from misgiving.report.tables import (
    POINTS,
    Promise,
    Result,
    distinct,
    main_model,
    models_of,
    select,
    spread,
    spread_of,
)
from misgiving.report.tables.policies import interval_of

SAYS = (
    "It says: of the cases that are answered, at most the promised share is wrong. If this were "
    "set up many times with new calibration cases, at most 5 % of the set-ups would break it (or "
    "call more ordinary images OOD than the 5 % that are promised beside it, where there were "
    "enough cases to promise that).",
    "It does not say that a given answer is right, nor anything of a single class or patient.",
    "Its unit is one image of each lesion. The shares and errors measured here are of all images.",
    "It holds for cases drawn like the calibration cases: not for other devices, another clinic, "
    "or another mix of diagnoses.",
    "It belongs to one trained model, and to no other, nor to the same one trained again.",
    "It does not say that an OOD image is noticed: that share is only measured, below.",
    "What else could have been promised is known only after looking; to promise that, calibrate "
    "with new cases. With few calibration cases less is answered.",
)
BY_IMAGE = (
    "Paper's split: images are split one by one, so that images of a lesion may have been trained "
    "on and calibrated or measured with as well. The promise then holds for no new lesion, and "
    "what follows may be better than in use. Rely only on a run with the grouped split."
)
OTHER_HEADS = ("Else certified, %", f"Called ood, % {markup.DOWN}", "Calibration cases")
NO_POLICIES = (
    "Missing in results.csv: policies (policy_test). Either the run is older, or its parts were "
    "too small to calibrate any; so no promise can be given."
)


def reliance(material: Material, drawn: Mapping[str, Figure]) -> str:
    """The plain answer first, then its numbers, OOD images, and what probabilities mean."""
    return _promises(material) + _ood(material) + calibration(material, drawn)


def _by_image(material: Material) -> str:
    by_image = str(material.settings.get("split", "paper")) != "grouped"
    return markup.paragraph("missing", BY_IMAGE) if by_image else ""


def _promises(material: Material) -> str:
    targets = tables.promises_of(material.results)
    if not targets:
        return markup.paragraph("missing", NO_POLICIES)
    first, *others = tables.promise_sentences(material.intervals, targets)
    findings = [first, " ".join(others)] if others else [first]
    return (
        "".join(markup.paragraph("finding", sentence) for sentence in findings)
        + _by_image(material)
        + _refused(material)
        + _table(material, targets)
        + "<h3>What the promise says, and what it does not</h3>"
        + markup.items(SAYS)
    )


def _refused(material: Material) -> str:
    """The trials of a model that have no policy, though its classifier was measured."""
    rows = select(material.results, experiment="generalization")
    trained = {(row.model, row.trial) for row in select(rows, dataset=material.measured)}
    held = {(row.model, row.trial) for row in select(rows, dataset=tables.POLICY_SET)}
    absent = [f"{model}, trial {trial}" for model, trial in sorted(trained - held)]
    text = f"Missing: policies of {'; '.join(absent)}. The parts were too small to calibrate on."
    return markup.paragraph("missing", text) if absent else ""


def _table(material: Material, targets: Sequence[Promise]) -> str:
    names = (
        "Promised, at most %",
        "Given in trials",
        f"Cases answered, % {markup.UP}",
        f"Of these wrong, % {markup.DOWN}",
    )
    others = map(markup.number_head, OTHER_HEADS)
    first = [markup.head("Model"), *map(markup.number_head, names)]
    heads = [markup.row(*first, markup.head("Promise kept?"), *others)]
    models = dict.fromkeys(promise.model for promise in targets)
    bodies = [
        _model(material, [promise for promise in targets if promise.model == model])
        for model in models
    ]
    caption = (
        "Of the images held out to measure policies. Mean over trials, and its 95 % interval; a "
        "trial in which no promise could be given answers nothing, and counts as 0 % answered and "
        "not in the error. Where not every trial has an error there is no interval, and the "
        "trials are listed. Kept: yes or no only where the whole interval says so. Else certified: "
        "the smallest error that the cases of a trial without a promise would have certified."
    )
    return markup.table(caption, heads, bodies)


def _model(material: Material, targets: Sequence[Promise]) -> str:
    scores = select(
        material.results, dataset=tables.POLICY_SET, metric="accepted_by", model=targets[0].model
    )
    names = [DETECTORS.get(name, name) for name in distinct(scores, "detector")]
    by = [f"accepts by {' / '.join(names)}"] if names else []
    head = markup.row_head(targets[0].model, rows=len(targets), tags=by)
    return markup.body(
        markup.row(*([head] if index == 0 else []), *_cells(material, promise))
        for index, promise in enumerate(targets)
    )


def _cells(material: Material, promise: Promise) -> list[str]:
    given = f"{len(promise.given)} of {len(promise.policies)}"
    cases = [policy.cases for policy in promise.policies if policy.cases is not None]
    return [
        markup.number(f"{100 * promise.target:g}"),
        markup.number(given),
        _measured(material, promise, "coverage", [p.coverage for p in promise.policies]),
        _measured(material, promise, "error_among_accepted", promise.errors),
        markup.cell(tables.kept(material.intervals, promise)),
        markup.number(_listed(promise.smallest)),
        _measured(material, promise, "ood_share", _ood_shares(promise)),
        markup.number(", ".join(dict.fromkeys(f"{count:g}" for count in cases)) or markup.ABSENT),
    ]


def _ood_shares(promise: Promise) -> list[float]:
    return [policy.ood for policy in promise.policies if policy.ood is not None]


def _measured(material: Material, promise: Promise, metric: str, values: Sequence[float]) -> str:
    """A value with its interval, or the trials that have one."""
    found = interval_of(material.intervals, promise, metric)
    if found is None:
        return markup.number(_listed(values), small="(no interval)" if values else "")
    return markup.estimate(found, spread_of(values), POINTS)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(POINTS.number, values)) or markup.ABSENT


def _ood(material: Material) -> str:
    """The shares that the OOD rule finds, set by set."""
    rows = select(material.results, detector="ood_rule", metric="ood_share")
    if not rows:
        return markup.paragraph("missing", "Missing in results.csv: the rule for OOD images.")
    models = models_of(rows)
    model = main_model(models)
    sentence = tables.ood_sentence(material.results, model=model, measured=material.measured)
    names = [markup.head("Set"), markup.head("Kind"), *map(markup.number_head, models)]
    sets = distinct(rows, "dataset")
    bodies = [_set(material, select(rows, dataset=name), models) for name in sets]
    caption = (
        "Share of each set that is called OOD, in %: mean over trials, ± standard deviation "
        "over trials; no intervals are measured. The rule compares the distance to the nearest "
        "training images (kNN) with a limit set for at most 5 % false alarms, with confidence "
        "0.95."
    )
    table = markup.table(caption, [markup.row(*names)], bodies)
    return f"<h3>OOD images</h3>{markup.paragraph('finding', sentence)}{table}"


def _set(material: Material, rows: Sequence[Result], models: Sequence[str]) -> str:
    dataset = rows[0].dataset
    kind = f"false alarms {markup.DOWN}" if dataset == material.measured else f"found {markup.UP}"
    shown = f"{dataset} (in-distribution classes)" if dataset == material.measured else dataset
    tags = [tag for tag in set_tags(material, shown) if tag != markup.TUNED]
    values = [markup.mean(spread(select(rows, model=model)), POINTS) for model in models]
    head = markup.row_head(markup.label(dataset), tags=tags)
    return markup.body([markup.row(head, markup.cell(kind), *values)])
