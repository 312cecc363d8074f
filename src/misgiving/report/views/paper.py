"""The sets, the provenance, and the comparison with the paper: settings and every number."""

from collections.abc import Iterator

from misgiving.report import wording
from misgiving.report.findings import POINTS
from misgiving.report.inputs import ReportInputs
from misgiving.report.published import (
    FIGURE_3,
    FIGURE_5,
    READ_OTHERWISE,
    SETS,
    SETTINGS,
    TUNING_SET,
    VALIDATION_SHARE,
    Published,
    table_1,
    title,
)
from misgiving.report.views import (
    ABSENT,
    UP,
    Cell,
    Line,
    Rows,
    Table,
    group,
    heads,
    number,
    pair_cell,
    pair_of,
    set_tags,
    value,
)
from misgiving.report.views.detection import METRICS
from misgiving.results.schema import Settings

NAMES = {metric: name for metric, (name, _) in METRICS.items()}
NAMES["balanced_accuracy"] = f"Balanced accuracy {UP}"
OPTIONAL = {"paper_images": "Images in the paper", "left_out": "Left out"}


def paper_differences(inputs: ReportInputs) -> list[str]:
    """The differences from the paper, one sentence each."""
    settings = inputs.settings
    tuning = settings.odin.tuning_set
    elsewhere = f"ODIN is tuned on {title(tuning)} instead of NCT."
    return [
        *_instead(settings),
        *_otherwise(settings),
        *(line for paper_set in SETS for line in _set(inputs, paper_set)),
        *([] if inputs.paper_set(tuning) == TUNING_SET else [elsewhere]),
    ]


def _instead(settings: Settings) -> Iterator[str]:
    """Our value and the paper's of each setting that differs; classes may have another order."""
    if settings.data.partition(":")[0] != "isic2019":
        yield f"Data: {settings.data} instead of ISIC 2019."
    for key, paper in SETTINGS.items():
        section = getattr(settings, paper.section) if paper.section else vars(settings)
        ours, theirs = section[key], paper.value
        same = set(ours) == set(theirs) if isinstance(theirs, tuple) else ours == theirs
        if not same:
            yield f"{paper.name}: {paper.text(ours)} instead of {paper.text(theirs)}."


def _otherwise(settings: Settings) -> Iterator[str]:
    """The differences in procedure."""
    training, backbone = settings.training, str(settings.model["backbone"])
    absent = [name for name, strength in settings.augmentation.items() if not strength]
    grouped, share = settings.split != "paper", settings.validation_share
    sentences = {
        f"Network: {backbone} instead of VGG-16.": backbone.partition(".")[0] != "vgg16",
        f"Initial weights: {wording.weights(settings)}; the paper uses those of ImageNet.": (
            settings.model["weights"] or not settings.model["pretrained"]
        ),
        f"Class weights of the loss: {training['class_weights']}; the paper weights classes.": (
            training["class_weights"] != "inverse"
        ),
        f"Class weights of the sampler: {training['sampling']}; the paper weights classes.": (
            training["sampling"] != "inverse"
        ),
        f"Learning rate of the estimator: {training['estimator_rate']:g} times the classifier's; "
        "the paper has one learning rate.": training["estimator_rate"] != 1,
        "Colours: unchanged; the paper applies colour constancy.": (
            settings.preprocessing["color_constancy"] == "none"
        ),
        f"Augmentation without {', '.join(absent)}.": absent,
        "Split: by group instead of by image, so that no group is in two sets; about 70 % of the "
        "images are trained on instead of 90 %.": grouped,
        f"Share of validation images: {share:g} instead of {VALIDATION_SHARE:g}.": (
            not grouped and share != VALIDATION_SHARE
        ),
        f"Measured set: {settings.measured_set}; the paper measures its validation set.": (
            settings.measured_set != "validation"
        ),
    }
    return (sentence for sentence, differs in sentences.items() if differs)


def _set(inputs: ReportInputs, paper_set: str) -> Iterator[str]:
    paper, found = SETS[paper_set], inputs.sets_of(paper_set)
    if not found:
        yield f"{paper.title}: not measured."
    for name in found:
        facts = inputs.datasets[name]
        expected = facts.paper_images or paper.images
        if inputs.stands_in(name):
            yield f"{paper.title}: {title(name)} ({facts.contents}) stands in for it."
        elif facts.images != expected:
            yield f"{title(name)}: {facts.images:,} images instead of {expected:,}."
        if inputs.origin(name) == "made here":
            yield f"{title(name)}: made here of held-out images instead of the published set."


def paper_table(inputs: ReportInputs) -> Table | None:
    """Every number that the paper prints, and the same quantity here; None for other data."""
    if not inputs.settings.compares_with_paper:
        return None
    over = [Cell(text, scope="col", rows=2) for text in ("Set", "Metric")]
    wide = [Cell(text, scope="col", columns=3) for text in ("The paper", "Here")]
    inside = Cell("Paper's difference in our t-interval?", scope="col", rows=2)
    names = heads(numbers=("vanilla", "proposed", "difference") * 2)
    return Table([[*over, *wide, inside], names], list(_bodies(inputs)))


def paper_agreement(inputs: ReportInputs) -> str:
    """The number of the paper's differences that our t-intervals include."""
    compared = [(inputs.measured, FIGURE_3), (FIGURE_5.dataset, FIGURE_5)]
    compared += [
        (name, cell)
        for paper_set in SETS
        for name in inputs.sets_of(paper_set)
        for cell in table_1(paper_set)
    ]
    found = [_includes(inputs, name, cell) for name, cell in compared]
    return (
        f"Our t-interval over trials includes the paper's difference in {found.count(True)} of "
        f"{len(found) - found.count(None)} numbers that can be compared; a wide interval includes "
        "much."
    )


def groups_are(inputs: ReportInputs) -> str:
    """The meaning of a group, in the words of the data."""
    lesion = "a lesion, " if inputs.unit == "lesion" else ""
    return (
        f"A group is {lesion}a source picture, another group that the data name, or else the "
        "image itself."
    )


def _bodies(inputs: ReportInputs) -> Iterator[Rows]:
    tags = [f"{inputs.measured}, all classes (4.1)"]
    yield group("Figure 3", [_row(inputs, inputs.measured, FIGURE_3)], tags)
    for paper_set, paper in SETS.items():
        cells, found = list(table_1(paper_set)), inputs.sets_of(paper_set)
        if not found:
            absent = Cell("not measured", columns=4)
            lines = [[Cell(NAMES[cell.metric]), *_paper(cell), absent] for cell in cells]
            yield group(paper.title, lines)
        for name in found:
            tags = [*set_tags(inputs, name, full=True), *_paper_tags(inputs, name, paper_set)]
            yield group(title(name), [_row(inputs, name, cell) for cell in cells], tags)
    tags = ["all unseen classes (4.3)"]
    yield group("Figure 5", [_row(inputs, FIGURE_5.dataset, FIGURE_5)], tags)


def _paper_tags(inputs: ReportInputs, name: str, paper_set: str) -> Iterator[str]:
    """The images of the paper's set, and those of ours from which nothing could be made."""
    facts = inputs.datasets[name]
    if name in READ_OTHERWISE:
        yield f"another reading of the paper's {SETS[paper_set].title}"
    yield f"paper: {facts.paper_images or SETS[paper_set].images:,} images"
    if facts.left_out:
        yield f"{facts.left_out} left out: no clean crop"


def _row(inputs: ReportInputs, dataset: str, cell: Published) -> list[Cell]:
    line, inside = _line(dataset, cell), _includes(inputs, dataset, cell)
    ours = [value(inputs, line, model) for model in ("vanilla", "proposed")]
    told = ABSENT if inside is None else "yes" if inside else "no"
    return [Cell(line.text), *_paper(cell), *ours, pair_cell(inputs, "vanilla", line), Cell(told)]


def _line(dataset: str, cell: Published) -> Line:
    wanted = {"experiment": cell.experiment, "dataset": dataset, "detector": cell.detector}
    return Line(NAMES[cell.metric], {**wanted, "metric": cell.metric})


def _includes(inputs: ReportInputs, dataset: str, cell: Published) -> bool | None:
    """True if our t-interval includes the paper's difference; None where there is none."""
    pair = pair_of(inputs, "vanilla", _line(dataset, cell))
    if pair is None or pair.trial_lower is None or pair.trial_upper is None:
        return None
    return pair.trial_lower <= cell.difference <= pair.trial_upper


def _paper(cell: Published) -> list[Cell]:
    values = [number(str(found)) for found in (cell.vanilla, cell.proposed)]
    return [*values, number(POINTS.number(cell.difference, sign="+"))]


def sets_table(inputs: ReportInputs) -> Table:
    """The sets of images, with their sizes, groups and checksums."""
    facts_of_all = inputs.datasets.values()
    shown = [key for key in OPTIONAL if any(getattr(facts, key) for facts in facts_of_all)]
    columns = ("Images", "Groups", *(OPTIONAL[key] for key in shown), "Checksum")
    bodies = []
    for name, facts in inputs.datasets.items():
        tags = [f"stands in for {title(inputs.paper_set(name))}"] * inputs.stands_in(name)
        tags += filter(None, [inputs.origin(name)])
        counts = [getattr(facts, key) for key in ("images", "groups", *shown)]
        cells = [number(ABSENT if count is None else str(count)) for count in counts]
        line = [Cell(facts.contents), *cells, number(facts.checksum[:12])]
        bodies.append(group(title(name), [line], tags))
    return Table([heads("Set", "Contents", numbers=columns)], bodies)


def provenance(inputs: ReportInputs) -> dict[str, str]:
    """Versions, checksum and duration."""
    settings = inputs.settings
    return {
        **{f"version of {name}": version for name, version in settings.versions.items()},
        "checksum of the images": settings.fingerprint,
        "training and measuring, summed over units": duration(settings.unit_seconds),
        "threads of each unit": wording.listed(settings.unit_threads),
    }


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(90.0), duration(7200.0)
    ('1.5 minutes', '2.0 hours')
    """
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
