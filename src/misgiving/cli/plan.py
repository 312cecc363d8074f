"""`misgiving plan`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from misgiving.cli.options import DataOrPredictions, Looks, Seed, command
from misgiving.cli.progress import Bar, progress_bars, say, say_skipped, show_table
from misgiving.cli.sources import check_source, load_data, say_split
from misgiving.deferral.targets import PREDICTED, GuaranteeName, Targets

if TYPE_CHECKING:
    from misgiving.deferral.planning import CertificationOutlook
    from misgiving.predictions.record import Predictions


@command
def plan(
    data: DataOrPredictions,
    /,
    *,
    targets: Targets,
    guarantee: GuaranteeName = "confident",
    strict: bool = False,
    seed: Seed = 0,
    looks: Looks = (),
    audit: Annotated[float | None, Parameter(validator=Number(gte=0.0001, lte=1))] = None,
    cases_per_week: Annotated[int, Parameter(validator=Number(gte=1))] = 1000,
) -> None:
    """Say before training what a calibration set of DATA can certify.

    Splits the images that can be read by group, as `train` does by default, and counts the
    calibration cases by class. Then it assumes that 0, 1, 3 or 5 % of the accepted answers are
    wrong, and gives the smallest error rate that these cases would certify, and how many more cases
    the target would need; the same for each class with a target. For a file of predictions, the
    calibration set is that of its column set, or four fifths of it.

    Example: misgiving plan isic2019:ISIC_2019 --max-error 0.05 --class-max-miss MEL=0.1

    Args:
        guarantee: Of the limit for OOD images; error rates are said for each guarantee.
        strict: Fail if files of DATA are ignored, or class folders have no images.
        seed: Seed of the split, as in `train`.
        looks: Only plan several calibrations with a file of predictions, by their numbers of
            cases: label the first, and go on only if nothing is certified.
        audit: Also say after how many audited answers an error twice as high as the target
            is noticed, and how many reviews it costs to audit this share of the cases.
        cases_per_week: Cases a week, for --audit.
    """
    from misgiving.deferral.calibrations import Calibrations, record_of
    from misgiving.deferral.certify import MOST_CASES
    from misgiving.deferral.guarantees import GUARANTEES
    from misgiving.deferral.planning import WRONG_SHARES, plan_certification, plan_looks
    from misgiving.deferral.sentences import lines, three_digits
    from misgiving.deferral.sets import drawn_sets
    from misgiving.predictions.record import Predictions

    is_file = check_source(data, files=["looks"])
    GUARANTEES[guarantee].check_looks(looks)
    shares = [three_digits(share) for share in WRONG_SHARES]
    if looks:
        Predictions.read(Path(data))  # so that there is such a file
        record = record_of(Path(data))
        Calibrations.read(record).planned(looks).write(record)
        rows = [
            (str(cases), three_digits(level), *(three_digits(bound, up=True) for bound in bounds))
            for cases, level, bounds in plan_looks(looks, targets)
        ]
        heads = ("cases", "level", *shares)
        show_table(heads, rows, title="what each look certifies, if all are accepted")
        say(f"wrote the plan to {record}; calibrate with the first {looks[0]} cases")
        return
    source = (Predictions.read(Path(data)), "") if is_file else _grouped_split(data, seed, strict)
    images, origin = source
    tuning, calibration, parts = drawn_sets(images, seed=seed)
    for part in (tuning, calibration):
        part.check_labelled()
    outlook = plan_certification(
        calibration.labels,
        calibration.units,
        calibration.classes,
        targets,
        GUARANTEES[guarantee],
    )
    origin = origin or ("drawn" if parts else "named")
    facts = (data, images, calibration, outlook, MOST_CASES, origin)
    for sentence in lines("plan.txt", "planned", *facts):
        say(sentence)
    counts = [(name, outlook.images[name], cases) for name, cases in outlook.cases.items()]
    show_table(("class", "rows" if is_file else "images", "cases"), counts, title="calibration set")
    if targets.limits_errors:
        show_table(("if so many are wrong", *shares), _table(outlook), title="what it certifies")
    _show_values(calibration, targets)
    if audit is not None:
        title = f"audit of {three_digits(audit)} of {cases_per_week} cases a week"
        heads = ("", "answers", "all accepted", "half accepted")
        show_table(heads, _audits(targets, audit * cases_per_week), title=title)


def _show_values(calibration: "Predictions", targets: Targets) -> None:
    """Show what each value of a column could certify; for predicted classes, the true ones."""
    if not targets.column:
        return
    from misgiving.deferral.planning import plan_values
    from misgiving.deferral.sentences import three_digits

    classes = [calibration.classes[label] for label in calibration.labels]
    targets.check_columns(calibration.metadata)
    columns = {PREDICTED: classes, **calibration.metadata}
    values = targets.values_of(columns[targets.column])
    rows = [
        (value, str(cases), *(three_digits(bound, up=True) for bound in bounds))
        for value, cases, *bounds in plan_values(values, calibration.units, targets)
    ]
    heads = (targets.column.replace("_", " "), "cases", "alone", "all together")
    show_table(heads, rows, title="smallest certifiable error if none is wrong")


def _grouped_split(data: str, seed: int, strict: bool) -> "tuple[Predictions, str]":
    """Readable images in the sets of a grouped split, without outputs, and its origin.

    Near duplicates, which training puts into one group, are not sought, so there may be slightly
    fewer cases.
    """
    import numpy as np

    from misgiving.data.cache import bad_images
    from misgiving.data.datasets.dataset import without
    from misgiving.data.datasets.tags import with_tags
    from misgiving.data.splits import split_by_group
    from misgiving.predictions.record import Predictions

    dataset = load_data(data, strict=strict)
    dataset = with_tags(dataset, dataset.preprocessing)
    with progress_bars() as progress:
        bad = bad_images(dataset, Bar(progress, "checking images").at)
    say_skipped(bad)
    dataset = without(dataset, bad)
    sets = split_by_group(dataset, seed=seed)
    say_split(dataset, sets.tolist())
    images = Predictions(
        logits=np.zeros((len(dataset), 0)),
        labels=dataset.labels,
        classes=dataset.classes,
        ids=dataset.ids,
        groups=dataset.groups,
        group_columns=dataset.group_columns,
        metadata=dataset.metadata,
        sets=tuple(sets.tolist()),
    )
    return images, "published" if dataset.sets else "split"


def _table(outlook: "CertificationOutlook") -> Iterator[tuple[str, ...]]:
    """Cells of a table: what is certified, by the share of wrong answers."""
    from misgiving.deferral.certify import MOST_CASES
    from misgiving.deferral.sentences import three_digits

    targets, total = outlook.targets, outlook.total
    error, silent = targets.max_error or 0.0, targets.max_silent_error or 0.0
    parts = [
        (f"error, all {total} cases accepted", "", outlook.error, error),
        (f"error, {total // 2} accepted", "", outlook.accepted_half, error),
        (f"accepted errors of all {total} cases", "", outlook.silent, silent),
    ]
    for name, by_guarantee in outlook.classes.items():
        cases = sum(outlook.cases[each] for each in targets.members(name))
        title = f"missed {name}, {cases} cases"
        parts.append((title, f" of {name}", by_guarantee, targets.class_max_miss[name]))
    for title, suffix, by_guarantee, limit in parts:
        for guarantee, rates in by_guarantee.items():
            smallest = (three_digits(rate.smallest, up=True) for rate in rates)
            yield f"{title}: {guarantee}", *smallest
            more = [
                f"> {MOST_CASES}" if rate.more is None and rate.wrong_share < limit else rate.more
                for rate in rates
            ]
            needs = ("impossible" if number is None else str(number) for number in more)
            yield f"  more cases{suffix} for {100 * limit:.3g} %", *needs


def _audits(targets: Targets, audited: float) -> Iterator[tuple[str, ...]]:
    """Cells of a table: reviews and weeks, by the share that is accepted of all audited cases."""
    from misgiving.deferral.audit import answers_until_alarm
    from misgiving.deferral.sentences import three_digits

    target = targets.max_error or targets.max_silent_error or 0.0
    accepted = [audited, audited / 2]
    stream = accepted if targets.max_error else [audited, audited]
    yield "reviews each week", "", *(f"{number:.3g}" for number in accepted)
    readings = (f"{target * number:.3g}" for number in stream)
    yield f"second readings ({three_digits(target)} wrong)", "", *readings
    doubled = three_digits(min(2 * target, 1.0))
    for words, after in ((f"{doubled} from the start", 0), (f"{doubled} after 500 audits", 500)):
        delays = answers_until_alarm(target, after=after)
        for row, answers in zip((f"{words}: median", "  9 of 10 by"), delays, strict=True):
            yield row, str(answers), *(f"{answers / number:.1f} weeks" for number in stream)
