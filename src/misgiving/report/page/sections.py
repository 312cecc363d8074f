"""The parts of the report: material in, HTML out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from matplotlib.figure import Figure

from misgiving.report import markup, tables
from misgiving.report.figures import DETECTORS
from misgiving.report.inputs import Facts, Material
from misgiving.report.page.comparisons import (
    SAID,
    Block,
    Line,
    comparison_table,
    set_tags,
    stand_in_tag,
)
from misgiving.report.published import row_of
from misgiving.report.tables import Finding, HistoryRow, Result, distinct, select

EXPECTED_MODELS = ("vanilla", "mse", "proposed")
# the words by which a section finds the open choices that bear on it
ESTIMATOR_CHOICES = ("margin", "pair", "tie", "target", "read", "rate", "gradient", "reduc", "pool")
CLASSIFIER_CHOICES = ("weight", "sampl", "crop", "colour", "checkpoint", "split", "classes")
DETECTION_CHOICES = ("odin", "aupr", "box", "checkpoint", "split")


STATUSES = ("seen", "seen in part", "not seen", "cannot be judged")
TOLD_ELSEWHERE = frozenset(
    {
        "title",
        "open_choices",
        "training",
        "versions",
        "fingerprint",
        "notes",
        "class_counts",
        "leakage",
        "compares_with_paper",
        "missing_units",
        "run_seconds",
        "unit_seconds",
    }
)
DURATIONS = {
    "run_seconds": "duration",
    "unit_seconds": "training and measuring, summed over units",
}
OPTIONAL_FACTS = {
    "paper_images": "Images in the paper",
    "left_out": "Left out",
    "checksum": "Checksum",
}


def lead(settings: Facts) -> str:
    """What was run, in one line."""
    units = {"backbone": "", "image_size": " px", "epochs": " epochs", "trials": " trials"}
    known = [f"{markup.in_words(settings[key])}{units[key]}" for key in units if key in settings]
    data = markup.in_words(settings.get("data", "data that settings.json does not name"))
    return ", ".join([f"Measured on {data}", *known]) + "."


def findings(material: Material) -> list[Finding]:
    """The claims of the paper, each with its verdict, in the order of the report."""
    return [
        tables.collapse_finding(material.histories, part=material.watched),
        tables.ranking_finding(material.intervals),
        tables.accuracy_finding(material.intervals),
        minority_finding(material),
        tables.speed_finding(material.sweep),
        tables.ood_finding(material.intervals, sets=material.claimed_sets),
        tables.new_classes_finding(material.intervals),
    ]


def minority_finding(material: Material) -> Finding:
    """Whether the minority classes gain, with the counts that the run records."""
    return tables.minority_finding(
        material.intervals,
        minority=material.minority,
        majority=material.majority,
        images=material.held_out(),
    )


def summary(material: Material) -> str:
    """How many of the claims are seen, and each in a sentence."""
    found = findings(material)
    said = [
        f"<li><strong>{escape(finding.claim)}: {escape(finding.status)}.</strong> "
        f"{escape(finding.sentence)}</li>"
        for finding in found
    ]
    return f"<p>{_tally(found)}</p><ol>{''.join(said)}</ol>"


def _tally(found: Sequence[Finding]) -> str:
    counts = Counter(finding.status for finding in found)
    said = [f"{counts[status]} {status}" for status in STATUSES if counts[status]]
    return f"Of {len(found)} claims of the paper, {', '.join(said)}."


def unfinished(facts: Facts) -> str:
    """The units that are not in the numbers; empty where all are."""
    units = [str(unit) for unit in facts.get("missing_units", ())]
    if not units:
        return ""
    counted = f"{len(units)} unit{'s are' if len(units) > 1 else ' is'}"
    text = f"Unfinished: {counted} not in these numbers: {'; '.join(units)}."
    return markup.paragraph("missing", text)


def settings(facts: Facts) -> str:
    """The run and the open choices, side by side."""
    run = {name: value for name, value in facts.items() if name not in TOLD_ELSEWHERE}
    training = facts.get("training", {})
    run = {name: value for name, value in run.items() if name.replace("_", " ") not in training}
    parts = {
        "The run": {**run, **training},
        "What the paper leaves open, and the choice taken here": facts.get("open_choices", {}),
    }
    absent = [
        markup.paragraph("missing", f"Missing in settings.json: {name}.")
        for name, content in parts.items()
        if not content
    ]
    shown = [markup.pairs(name, content) for name, content in parts.items() if content]
    return "".join(absent) + f'<div class="sides">{"".join(shown)}</div>'


def learning(material: Material, figure: Figure) -> str:
    """Figure 2: does the estimator generalise with mse, and with ranking?"""
    collapse = tables.collapse_finding(material.histories, part=material.watched).sentence
    ranking = tables.ranking_finding(material.intervals).sentence
    caption = (
        "Auxiliary loss of the estimator per epoch with mse (left) and with ranking (middle), and "
        f"accuracy of the classifiers on {material.watched} (right). Lines are means over trials; "
        "bands reach from the lowest to the highest trial. The two auxiliary losses differ in unit."
    )
    return (
        missing(material.histories, "histories.csv", "generalization")
        + markup.figure(figure, caption, alt=f"{caption} {collapse} {ranking}")
        + markup.paragraph("finding", collapse)
        + markup.paragraph("finding", ranking)
        + holds(material, (*ESTIMATOR_CHOICES, "checkpoint"))
    )


def examples(material: Material, figure: Figure) -> str:
    """Figure 4: what is in the sets."""
    sets = [examples.name for examples in material.examples]
    if not sets:
        return markup.paragraph("missing", "Missing: example images (the folder examples).")
    sentence = f"{len(sets)} sets of images are measured on: {', '.join(sets)}."
    return (
        markup.figure(figure, "Images as the model is shown them.", alt=sentence, kind="jpg")
        + markup.paragraph("finding", sentence)
        + holds(material, ("crop", "colour", "box"))
    )


def new_classes(material: Material, figure: Figure) -> str:
    """Figure 5: does joint training reveal classes unseen in training?"""
    sentence = tables.new_classes_finding(material.intervals).sentence
    caption = (
        "Large marks are means over trials, whiskers one standard deviation, dots the trials; the "
        "dashed line at 50 % is chance. ODIN is tuned on the set named in Table 1, not on these."
    )
    return (
        missing(material.results, "results.csv", "new_classes")
        + markup.figure(figure, caption, alt=f"AUROC for unseen classes. {sentence}")
        + markup.paragraph("finding", sentence)
        + holds(material, DETECTION_CHOICES)
        + _unseen_table(material)
    )


def _unseen_table(material: Material) -> str:
    rows = select(material.results, experiment="new_classes", metric="auroc")
    named = [name for name in DETECTORS if name.startswith("odin") or name == "best_on_tuning"]
    blocks = []
    for dataset in distinct(rows, "dataset"):
        wanted = {"experiment": "new_classes", "dataset": dataset, "metric": "auroc"}
        present = distinct(select(rows, dataset=dataset), "detector")
        lines = [
            Line(DETECTORS[name], {**wanted, "detector": name}) for name in named if name in present
        ]
        blocks += [Block(markup.label(dataset), set_tags(material, dataset), lines)] * bool(lines)
    caption = f"AUROC for unseen classes. {SAID}"
    return comparison_table(material, caption, blocks, heads=["Set", "Detector"])


def missing(rows: Iterable[Result | HistoryRow], file: str, experiment: str) -> str:
    """Which of the paper's models an experiment lacks; empty where none."""
    present = {row.model for row in rows if row.experiment == experiment}
    absent = [model for model in EXPECTED_MODELS if model not in present]
    what = ", ".join(absent) if present else "every model"
    text = f"Missing in {file}, experiment {experiment}: {what}."
    return markup.paragraph("missing", text) if absent else ""


def holds(material: Material, words: Iterable[str]) -> str:
    """The line under a figure: which of the open choices it holds for."""
    wanted = tuple(words)
    said = [
        f"{markup.label(name)}: {markup.in_words(value)}"
        for name, value in material.settings.get("open_choices", {}).items()
        if any(word in name.lower() for word in wanted)
    ]
    return markup.paragraph("holds", f"Holds for {'; '.join(said) or 'the settings above'}.")


def provenance(material: Material) -> str:
    """What was measured on, with what, and what else is to be known."""
    settings = material.settings
    facts = {
        **{f"version of {name}": version for name, version in settings.get("versions", {}).items()},
        "fingerprint of the run": settings.get("fingerprint", markup.UNKNOWN),
        **{
            words: _duration(settings[key]) for key, words in DURATIONS.items() if settings.get(key)
        },
    }
    lists = {"What the split lets through": "leakage", "Notes": "notes"}
    told = {title: [str(text) for text in settings.get(key, ())] for title, key in lists.items()}
    return (
        _sets_table(material.datasets)
        + markup.pairs("Made with", facts)
        + "".join(
            f"<h3>{title}</h3>{markup.items(texts)}" for title, texts in told.items() if texts
        )
    )


def _duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> _duration(90.0), _duration(7200.0)
    ('1.5 minutes', '2.0 hours')
    """
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def _sets_table(datasets: Mapping[str, Facts]) -> str:
    if not datasets:
        return markup.paragraph("missing", "Missing: datasets.json, which counts the images.")
    names = [markup.head("Set"), markup.head("Contents")]
    known = [key for key in OPTIONAL_FACTS if any(facts.get(key) for facts in datasets.values())]
    columns = ["Images", "Groups", *(OPTIONAL_FACTS[key] for key in known)]
    heads = markup.row(*names, *map(markup.number_head, columns))
    rows = []
    for name, facts in datasets.items():
        row = row_of(name, str(facts.get("stands_for") or ""))
        tags = stand_in_tag(name, row)
        counts = [str(facts.get(key, markup.UNKNOWN)) for key in ("images", "sources")]
        counts += [_fact(facts.get(key)) for key in known]
        words = [
            markup.row_head(markup.label(name), tags=tags),
            markup.cell(str(facts.get("contents", ""))),
        ]
        rows.append(markup.row(*words, *map(markup.number, counts)))
    caption = (
        "The sets of images. Groups are what intervals resample: lesions, source pictures, or "
        "single images where nothing else is known."
    )
    return markup.table(caption, [heads], [markup.body(rows)])


def _fact(value: object) -> str:
    """A fact that not every set has; a checksum by its beginning."""
    return markup.ABSENT if value is None else str(value)[:12]
