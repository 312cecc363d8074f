"""What a policy does to a set of images: to all, and to each group of people or pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from misgiving.data.cache import ImageSet
from misgiving.data.datasets import Dataset
from misgiving.decisions.decision import Decision
from misgiving.deferral.bounds import two_sided_interval
from misgiving.deferral.scored_cases import one_per_group
from misgiving.metrics.subgroups import Subgroup, audit
from misgiving.results.formats import write_table
from misgiving.results.predictions import Predictions
from misgiving.results.schema import LabelledDecision, Measurement

CLASS = "class"
SHARES = {"coverage": "accept", "deferred_share": "defer", "ood_share": "ood"}
DECISIONS = "decisions.csv"
COLUMNS = LabelledDecision._fields[2:]  # those of a decision
SUBGROUPS = "subgroups.csv"


@dataclass(frozen=True, kw_only=True)
class Decided:
    """The decisions on a set and what is to be said of them.

    Attributes:
        decided: One for each image.
        predictions: What they rest on.
        measurements: Shares of decisions and the error among the accepted, of all images.
        subgroups: The same by class and by column of metadata, on one image of each group.
        sentences: For people; they name the groups that get a clearly worse deal.
    """

    decided: list[Decision]
    predictions: Predictions
    measurements: list[Measurement]
    subgroups: list[Subgroup]
    sentences: list[str]

    def write(self, folder: Path) -> None:
        """Write `decisions.csv` and `subgroups.csv`."""
        classes = self.predictions.classes
        rows = [
            LabelledDecision(
                identity, classes[label], *(getattr(decision, name) for name in COLUMNS)
            )
            for identity, label, decision in zip(
                self.predictions.ids, self.predictions.labels, self.decided, strict=True
            )
        ]
        write_table(folder / DECISIONS, LabelledDecision, rows)
        write_table(folder / SUBGROUPS, Subgroup, self.subgroups)


def remove_decisions(folder: Path) -> None:
    """Remove the tables of an earlier evaluation: they belong to other measurements."""
    for name in (DECISIONS, SUBGROUPS):
        (folder / name).unlink(missing_ok=True)


def metadata_of(dataset: Dataset, images: ImageSet) -> dict[str, tuple[str, ...]]:
    """What the data says of these images, by column."""
    position = {identity: number for number, identity in enumerate(dataset.ids)}
    rows = [position[identity] for identity in images.ids]
    return {
        column: tuple(values[row] for row in rows) for column, values in dataset.metadata.items()
    }


def measure_decisions(
    decided: list[Decision],
    predictions: Predictions,
    dataset: str,
    metadata: Mapping[str, Sequence[str]],
    *,
    seed: int,
) -> Decided:
    """Measure what comes of the decisions on a labelled set.

    Args:
        decided: The decision for each image.
        predictions: Of these images, with their true classes and groups.
        dataset: Its name in the results.
        metadata: By column what is known of each image.
        seed: Of the draw of one image from each group, for the audit of subgroups.
    """
    rows = one_per_group(predictions.groups, seed=seed)
    decisions = [one.decision for one in decided]
    accepted, ood = (np.array(decisions) == name for name in ("accept", "ood"))
    names = [predictions.classes[label] for label in predictions.labels]
    columns = {CLASS: names, **metadata}
    subgroups = audit(
        {column: [values[row] for row in rows] for column, values in columns.items()},
        accepted[rows],
        ood[rows],
        predictions.errors[rows],
    )
    return Decided(
        decided=decided,
        predictions=predictions,
        measurements=_measured(decisions, predictions, dataset),
        subgroups=subgroups,
        sentences=[
            _sentence(accepted[rows], predictions.errors[rows]),
            *map(_worse, (group for group in subgroups if group.worse)),
        ],
    )


def measure_shares(decisions: Sequence[str], dataset: str) -> list[Measurement]:
    """The shares of a set that are accepted, deferred and called out-of-distribution."""
    counts = {name: decisions.count(decision) for name, decision in SHARES.items()}
    return [
        Measurement(dataset, "policy", name, count / len(decisions))
        for name, count in counts.items()
    ]


def _measured(
    decisions: Sequence[str], predictions: Predictions, dataset: str
) -> list[Measurement]:
    accepted = np.array(decisions) == "accept"
    rows = measure_shares(decisions, dataset)
    if accepted.any():
        error = float(predictions.errors[accepted].mean())
        rows.append(Measurement(dataset, "policy", "error_among_accepted", error))
    return rows


def _sentence(accepted: Bool[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> str:
    """Coverage and error with exact intervals, on one image of each group."""
    cases, taken = len(accepted), int(accepted.sum())
    text = f"policy, on one image of each of {cases} groups: accepted {_share(taken, cases)}"
    if not taken:
        return text
    return f"{text}; wrong of these {_share(int(wrong[accepted].sum()), taken)}"


def _share(events: int, cases: int) -> str:
    low, high = two_sided_interval(events, cases, level=0.05)
    return f"{events} of {cases} ({events / cases:.1%}, 95 % interval {low:.1%} to {high:.1%})"


def _worse(group: Subgroup) -> str:
    said = {
        "coverage": f"accepted {_share(group.accepted, group.cases)}",
        "error": f"wrong among accepted {_share(group.errors, group.accepted)}"
        if group.accepted
        else "",
        "deferral": f"deferred {_share(group.deferred, group.cases)}",
    }
    return f"a clearly worse deal for {group.name} {group.value}: " + ", ".join(
        said[quantity] for quantity in group.worse
    )
