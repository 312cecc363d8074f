"""The parts of the report: material in, HTML out."""

from collections.abc import Iterable, Mapping
from html import escape

from matplotlib.figure import Figure

from misgiving.report import tables
from misgiving.report.page import markup
from misgiving.report.page.material import Facts, Material
from misgiving.report.tables import Epoch, Finding, Result

EXPECTED_MODELS = ("vanilla", "mse", "proposed")
# the words by which a section finds the open choices that bear on it
ESTIMATOR_CHOICES = ("margin", "pair", "tie", "target", "read", "rate", "gradient", "reduc", "pool")
CLASSIFIER_CHOICES = ("weight", "sampl", "crop", "colour", "checkpoint", "split", "classes")
DETECTION_CHOICES = ("odin", "aupr", "box", "checkpoint", "split")


def lead(settings: Facts) -> str:
    """What was run, in one line."""
    units = {"backbone": "", "image_size": " px", "epochs": " epochs", "trials": " trials"}
    known = [f"{markup.in_words(settings[key])}{units[key]}" for key in units if key in settings]
    data = markup.in_words(settings.get("data", "data that settings.json does not name"))
    return ", ".join([f"Measured on {data}", *known]) + "."


def findings(material: Material) -> list[Finding]:
    """The claims of the paper, each with its verdict, in the order of the report."""
    return [
        tables.collapse_finding(material.histories),
        tables.ranking_finding(material.intervals),
        tables.accuracy_finding(material.intervals),
        tables.ood_finding(material.intervals, tuned=material.tuned),
        tables.new_classes_finding(material.intervals),
    ]


def summary(material: Material) -> str:
    """The findings in one paragraph."""
    said = [
        f"<strong>{escape(found.claim)}: {escape(found.status)}.</strong> {escape(found.sentence)}"
        for found in findings(material)
    ]
    return "Five claims of the paper are checked. " + " ".join(said)


def settings(facts: Facts) -> str:
    """The run and the open choices, side by side."""
    apart = ("title", "open_choices", "training", "versions", "fingerprint", "notes", "run_seconds")
    run = {name: value for name, value in facts.items() if name not in apart}
    parts = {
        "The run": {**run, **facts.get("training", {})},
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
    collapse = tables.collapse_finding(material.histories).sentence
    ranking = tables.ranking_finding(material.intervals).sentence
    caption = (
        "Auxiliary loss of the estimator per epoch with mse (left) and with ranking (middle), and "
        "accuracy of the classifiers on validation (right). Lines are means over trials; bands "
        "reach from the lowest to the highest trial. The two auxiliary losses differ in unit."
    )
    return (
        missing(material.histories, "histories.csv", "generalization")
        + markup.figure(figure, caption, alt=f"{caption} {collapse} {ranking}")
        + markup.paragraph("finding", collapse)
        + markup.paragraph("finding", ranking)
        + holds(material, (*ESTIMATOR_CHOICES, "checkpoint"))
    )


def sensitivity(material: Material, figure: Figure) -> str:
    """Figure 3: does joint training improve the classifier?"""
    sentence = tables.accuracy_finding(material.intervals).sentence
    caption = (
        "Bars are means over trials, whiskers one standard deviation over trials, dots the trials. "
        "The whiskers leave out the choice of images; the interval in the next sentence does not."
    )
    return (
        missing(material.results, "results.csv", "generalization")
        + markup.figure(figure, caption, alt=f"Sensitivity per class and model. {sentence}")
        + markup.paragraph("finding", sentence)
        + holds(material, CLASSIFIER_CHOICES)
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
    )


def missing(rows: Iterable[Result | Epoch], file: str, experiment: str) -> str:
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
    seconds = settings.get("run_seconds")
    facts = {
        **{f"version of {name}": version for name, version in settings.get("versions", {}).items()},
        "fingerprint of the run": settings.get("fingerprint", markup.UNKNOWN),
        **({"duration": f"{seconds / 60:.1f} minutes"} if seconds else {}),
    }
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in settings.get("notes", ()))
    return (
        _sets_table(material.datasets)
        + markup.pairs("Made with", facts)
        + (f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "")
    )


def _sets_table(datasets: Mapping[str, Facts]) -> str:
    if not datasets:
        return markup.paragraph("missing", "Missing: datasets.json, which counts the images.")
    names = [markup.head("Set"), markup.head("Contents")]
    heads = markup.row(*names, markup.number_head("Images"), markup.number_head("Sources"))
    rows = []
    for name, facts in datasets.items():
        counts = [str(facts.get(key, markup.UNKNOWN)) for key in ("images", "sources")]
        words = [markup.row_head(markup.label(name)), markup.cell(str(facts.get("contents", "")))]
        rows.append(markup.row(*words, *map(markup.number, counts)))
    return markup.table("The sets of images.", [heads], [markup.body(rows)])
