"""Differences of a run from the paper, as codes with values."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from misgiving.report.reproduction.published import (
    FIGURE_3,
    FIGURE_5,
    SETS,
    SETTINGS,
    TUNING_SET,
    VALIDATION_SHARE,
    Published,
    table_1,
)
from misgiving.report.reproduction.run import Quantity, Run


class Departure(NamedTuple):
    """A setting or a set that is not the paper's; `code` says which sentence of the page it is."""

    code: str
    value: Any = None
    paper: Any = None


def departures(run: Run) -> list[Departure]:
    """All differences in data, settings, procedure and sets."""
    return [*_settings(run), *_procedure(run), *_sets(run)]


def _settings(run: Run) -> Iterator[Departure]:
    """Our value and the paper's of each setting that differs; classes may have another order."""
    if run.settings["data"].partition(":")[0] != "isic2019":
        yield Departure("data", run.settings["data"])
    for section, settings in SETTINGS.items():
        recorded = run.settings[section] if section else run.settings
        for key, paper in settings.items():
            value = recorded[key]
            same = set(value) == set(paper) if isinstance(paper, tuple) else value == paper
            if not same:
                yield Departure(key, value, paper)


def _procedure(run: Run) -> Iterator[Departure]:
    """The differences in procedure, each with the condition under which there is one."""
    settings, grouped = run.settings, run.settings["split"] != "paper"
    training, model = settings["training"], settings["model"]
    absent = [name for name, strength in settings["augmentation"].items() if not strength]
    share, tuning_set = settings["validation_share"], settings["odin"]["tuning_set"]
    differs = {
        Departure("backbone", model["backbone"]): model["backbone"].partition(".")[0] != "vgg16",
        Departure("weights", model["weights"]): model["weights"] or not model["pretrained"],
        **{
            Departure(name, training[name]): training[name] != "inverse"
            for name in ("class_weights", "sampling")
        },
        Departure("estimator_rate", training["estimator_rate"]): training["estimator_rate"] != 1,
        Departure("color_constancy"): settings["preprocessing"]["color_constancy"] == "none",
        Departure("augmentation", tuple(absent)): absent,
        Departure("split"): grouped,
        Departure("validation_share", share, VALIDATION_SHARE): (
            not grouped and share != VALIDATION_SHARE
        ),
        Departure("measured_set", run.measured): run.measured != "validation",
        Departure("tuning_set", tuning_set): run.paper_set(tuning_set) != TUNING_SET,
    }
    return (departure for departure, applies in differs.items() if applies)


def _sets(run: Run) -> Iterator[Departure]:
    """The differences in the sets of Table 1."""
    for paper_set in SETS:
        names = run.sets_of(paper_set)
        if not names:
            yield Departure("not_measured", paper_set)
        for name in names:
            yield from _set(run, name, paper_set)


def _set(run: Run, name: str, paper_set: str) -> Iterator[Departure]:
    """The differences of a set from one of the paper's."""
    expected = run.datasets[name]["paper_images"] or SETS[paper_set].images
    if run.stands_in(name):
        yield Departure("stands_in", name, paper_set)
    elif run.datasets[name]["images"] != expected:
        yield Departure("set_size", name, expected)
    if run.origin(name) == "made here":
        yield Departure("made_here", name)


def here(cell: Published, dataset: str) -> Quantity:
    """The quantity of a run that a printed number is compared with."""
    return Quantity(cell.experiment, dataset, cell.detector, cell.metric)


def includes(run: Run, dataset: str, cell: Published) -> bool | None:
    """True if our t-interval includes the paper's difference; None where there is none."""
    pair = run.interval(here(cell, dataset), "proposed", "vanilla")
    if pair is None or pair.trial_lower is None:
        return None
    return bool(pair.trial_lower <= cell.difference <= pair.trial_upper)


def agreement(run: Run) -> tuple[int, int]:
    """The number of the paper's differences that our t-intervals include, of those comparable."""
    compared = [(run.measured, FIGURE_3), (FIGURE_5.dataset, FIGURE_5)]
    for paper_set in SETS:
        compared += [(name, cell) for name in run.sets_of(paper_set) for cell in table_1(paper_set)]
    included = [includes(run, name, cell) for name, cell in compared]
    return included.count(True), len(included) - included.count(None)
