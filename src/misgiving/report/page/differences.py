"""In what a run differs from the paper, said in words and computed from what the run records."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from misgiving.report import markup
from misgiving.report.inputs import Material, stands_in
from misgiving.report.published import SETS, SETTINGS, TUNING_SET, title

NONE = "Nothing that settings.json records differs."


def differences(material: Material) -> list[str]:
    """The differences from the paper, one sentence each; empty where none is recorded."""
    return [*_data(material), *_classes(material), *_settings(material), *_sets(material)]


def _data(material: Material) -> Iterator[str]:
    name = str(material.settings.get("data", SETTINGS.data))
    if name.partition(":")[0] != SETTINGS.data:
        yield f"Data: {name} instead of ISIC 2019."
    counts = {label: sum(material.counts(label).values()) for label in material.classes}
    if (total := sum(counts.values())) and total != SETTINGS.images:
        yield f"Images of 4.1: {total:,} instead of {SETTINGS.images:,}."
    chosen = sum(counts.get(label, 0) for label in material.settings.get("in_distribution", ()))
    if chosen and chosen != SETTINGS.in_distribution_images:
        yield f"Images of 4.2: {chosen:,} instead of {SETTINGS.in_distribution_images:,}."


def _classes(material: Material) -> Iterator[str]:
    named = {
        "classes": ("Classes of 4.1", SETTINGS.classes),
        "in_distribution": ("In-distribution classes of 4.2", SETTINGS.in_distribution),
        "unseen": ("Unseen classes of 4.3", SETTINGS.unseen),
    }
    for key, (words, expected) in named.items():
        found = [str(name) for name in material.settings.get(key, expected)]
        if set(found) != set(expected):
            yield f"{words}: {', '.join(found)} instead of {', '.join(expected)}."


def _settings(material: Material) -> Iterator[str]:
    training = material.settings.get("training", {})
    recorded = {**_numbers(training), **{str(k): v for k, v in material.settings.items()}}
    for name, (words, unit) in _COMPARED.items():
        found, expected = recorded.get(name), getattr(SETTINGS, name)
        if found is not None and found != expected:
            yield f"{words}: {markup.in_words(found)}{unit} instead of {expected:g}{unit}."
    yield from _network(material.settings)
    yield from _procedure(material.settings)
    yield from _weighting(material.settings)


_COMPARED = {
    "image_size": ("Image size", " px"),
    "epochs": ("Epochs", ""),
    "batch_size": ("Batch size", ""),
    "learning_rate": ("Learning rate", ""),
    "decay_factor": ("Factor of the learning rate's decay", ""),
    "decay_every": ("Epochs between decays", ""),
    "momentum": ("Adam's momentum", ""),
    "weight_decay": ("Weight decay", ""),
    "dropout": ("Dropout", ""),
    "auxiliary_weight": ("Weight of the auxiliary loss", ""),
    "crop": ("Crop", " of the width"),
    "validation_share": ("Share of images held out", ""),
    "trials": ("Trials", ""),
}
_WRITTEN = {  # where the run's sentences hold the numbers
    "batch_size": ("batch size", r"^([\d.e-]+)$"),
    "learning_rate": ("learning rate", r"^([\d.e-]+)"),
    "decay_factor": ("learning rate", r"times ([\d.e-]+)"),
    "decay_every": ("learning rate", r"every ([\d.]+) epochs"),
    "momentum": ("optimiser", r"beta1 ([\d.e-]+)"),
    "weight_decay": ("optimiser", r"weight decay ([\d.e-]+)"),
    "dropout": ("dropout", r"^([\d.e-]+)$"),
    "auxiliary_weight": ("auxiliary weight (Eq. 2)", r"^([\d.e-]+)$"),
    "crop": ("crop", r"^([\d.e-]+)$"),
}


def _numbers(training: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that the run's account of its training holds."""
    found = {
        name: re.search(pattern, str(training.get(key, "")))
        for name, (key, pattern) in _WRITTEN.items()
    }
    return {name: float(match[1]) for name, match in found.items() if match}


def _network(settings: Mapping[str, Any]) -> Iterator[str]:
    backbone = str(settings.get("backbone", SETTINGS.backbone))
    if backbone.partition(".")[0] != SETTINGS.backbone:
        yield f"Network: {backbone} instead of VGG-16."
    weights = str(settings.get("pretrained", "ImageNet"))
    if weights.lower() in ("no", "false", "none"):
        yield "Initial weights: random instead of those of ImageNet."
    elif "imagenet" not in weights.lower():
        yield f"Initial weights: {weights}, where the paper says those of ImageNet."


def _procedure(settings: Mapping[str, Any]) -> Iterator[str]:
    constancy = str(settings.get("training", {}).get("colour constancy", "yes"))
    if constancy.lower() in ("no", "none", "false", "off"):
        yield "Colours: as in the files, where the paper adjusts them for constancy."
    if settings.get("split", SETTINGS.split) == "grouped":
        yield (
            "Split: by lesion, so that none is in two parts, instead of by image; about 70 % of "
            "the images are trained on instead of 90 %."
        )
    part = str(settings.get("measured_set", "validation"))
    if part != "validation":
        yield f"Numbers are of a {part} part; the paper's are of its validation part."


def _weighting(settings: Mapping[str, Any]) -> Iterator[str]:
    """What the paper says of weights, rates and augmentation, and this run does otherwise."""
    choices = settings.get("open_choices", {})
    for key in ("class weights of the loss", "class weights of the sampler"):
        if (found := str(choices.get(key, "inverse"))) != "inverse":
            yield f"{markup.label(key).capitalize()}: {found}, where the paper weighs classes."
    rate = str(choices.get("estimator's learning rate", "1 x"))
    if not rate.startswith("1 x"):
        yield f"Learning rate of the loss estimator: {rate}; the paper names one rate."
    augmentation = str(settings.get("training", {}).get("augmentation", ""))
    if absent := re.findall(r"(\w+) (?:False|0\.0)(?:,|$)", augmentation):
        yield f"Augmentation without {', '.join(absent)}."


def _sets(material: Material) -> Iterator[str]:
    for row, paper in SETS.items():
        found = material.sets_of(row)
        if not found:
            yield f"{paper.title}: not measured."
        for name in found:
            facts = material.datasets.get(name, {})
            yield from _set(name, row, facts)
    tuning = str(material.settings.get("tuning_set", TUNING_SET))
    if material.row(tuning) != TUNING_SET:
        yield f"ODIN is tuned on {title(tuning)} instead of NCT."


def _set(name: str, row: str, facts: Mapping[str, Any]) -> Iterator[str]:
    paper, images = SETS[row], facts.get("images")
    if stands_in(name, row):
        contents = f" ({facts['contents']})" if facts.get("contents") else ""
        yield f"{paper.title}: {title(name)}{contents} stands in for it."
    elif isinstance(images, int) and images != facts.get("paper_images", paper.images):
        yield f"{title(name)}: {images:,} images instead of {paper.images:,}."
