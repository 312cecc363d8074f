"""Differences of a run from the paper, as codes with values."""

from typing import Any, NamedTuple

from misgiving.data.ood_sets import PAPER_COUNTS
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
    differs = _settings(run) | _procedure(run) | _sets(run)
    return [departure for departure, applies in differs.items() if applies]


def _settings(run: Run) -> dict[Departure, Any]:
    """Our value and the paper's of each setting; classes may have another order."""
    data = run.settings["data"]
    differs = {Departure("data", data): data.partition(":")[0] != "isic2019"}
    for section, settings in SETTINGS.items():
        recorded = run.settings[section] if section else run.settings
        for key, paper in settings.items():
            value = tuple(recorded[key]) if isinstance(paper, tuple) else recorded[key]
            same = set(value) == set(paper) if isinstance(paper, tuple) else value == paper
            differs[Departure(key, value, paper)] = not same
    return differs


def _procedure(run: Run) -> dict[Departure, Any]:
    """The differences in procedure, each with the condition under which there is one."""
    settings, grouped = run.settings, run.settings["split"] != "paper"
    training, model = settings["training"], settings["model"]
    absent = [name for name, strength in settings["augmentation"].items() if not strength]
    share, tuning_set = settings["validation_share"], settings["odin"]["tuning_set"]
    return {
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


def _sets(run: Run) -> dict[Departure, Any]:
    """The differences in the sets of Table 1."""
    differs: dict[Departure, Any] = {}
    for paper_set in SETS:
        names = run.sets_of(paper_set)
        differs[Departure("not_measured", paper_set)] = not names
        for name in names:
            facts, stands_in = run.datasets[name], run.stands_in(name)
            expected = facts["paper_images"] or PAPER_COUNTS[paper_set]
            differs |= {
                Departure("stands_in", name, paper_set): stands_in,
                Departure("set_size", name, expected): (
                    not stands_in and facts["images"] != expected
                ),
                Departure("made_here", name): run.origin(name) == "made here",
            }
    return differs


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
