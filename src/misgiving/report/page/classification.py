"""Section 4.1 in the report: the classifier, class by class, and its confusions."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from misgiving.report import markup, tables
from misgiving.report.inputs import Material
from misgiving.report.page.comparisons import SAID, Block, Line, comparison_table
from misgiving.report.page.sections import CLASSIFIER_CHOICES, holds, minority_finding, missing
from misgiving.report.tables import distinct, find, select


def classification(material: Material, drawn: Mapping[str, Figure]) -> str:
    """Figure 3: does joint training improve the classifier?"""
    sentence = tables.accuracy_finding(material.intervals).sentence
    caption = (
        "Bars are means over trials, whiskers one standard deviation over trials, dots the trials. "
        "The whiskers leave out the choice of images; the intervals in the table do not."
    )
    alt = f"Sensitivity per class and model. {sentence}"
    return (
        missing(material.results, "results.csv", "generalization")
        + markup.figure(drawn["figure-3"], caption, alt=alt)
        + markup.paragraph("finding", sentence)
        + markup.paragraph("finding", minority_finding(material).sentence)
        + holds(material, CLASSIFIER_CHOICES)
        + _table(material)
        + _confusions(drawn)
    )


def _table(material: Material) -> str:
    rows = select(material.results, experiment="generalization", dataset=material.measured)
    measured = distinct(select(rows, detector=""), "metric")
    first = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy"}
    classes = dict.fromkeys([f"sensitivity/{name}" for name in material.classes])
    found = {name: first[name] for name in first if name in measured}
    found |= {
        name: name.removeprefix("sensitivity/")
        for name in dict.fromkeys([*classes, *measured])
        if name in measured and name.startswith("sensitivity/")
    }
    blocks = [_block(material, metric, words) for metric, words in found.items()]
    caption = (
        f"Balanced accuracy, accuracy and the sensitivity of each class on {material.measured}. "
        f"{SAID} A class of few images or groups gives a wide interval, and its counts stand with "
        "its name: images in each part of the data, and independent groups held out."
    )
    return comparison_table(material, caption, blocks, heads=["Quantity"])


def _block(material: Material, metric: str, words: str) -> Block:
    wanted = {"experiment": "generalization", "dataset": material.measured, "detector": ""}
    wanted["metric"] = metric
    parts = material.counts(words) if metric.startswith("sensitivity/") else {}
    tags = [f"{part} {images:,}" for part, images in parts.items()]
    interval = find(material.intervals, model="proposed", **wanted)
    groups = [markup.count(interval.n, "groups")] if interval and interval.n else []
    joined = [", ".join(tags)] if tags else []
    return Block(words, [*joined, *groups], [Line("", wanted)])


def _confusions(drawn: Mapping[str, Figure]) -> str:
    if "confusions" not in drawn:
        return ""
    caption = (
        "Confusions of each model, summed over trials: the number in a cell counts images, its "
        "shade is the share of the true class, so that the diagonal shades show sensitivities."
    )
    figure = markup.figure(drawn["confusions"], caption, alt=f"Confusion matrices. {caption}")
    return f"<h3>Confusions</h3>{figure}"
