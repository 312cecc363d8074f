"""Decisions of a policy, measured on a labelled set: on all of it, and by subgroup."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from misgiving.decisions.decision import Decision, Outcome
from misgiving.deferral.bounds import two_sided_interval
from misgiving.deferral.scored_cases import one_per_group
from misgiving.metrics.subgroups import Subgroup, audit
from misgiving.results.formats import write_table
from misgiving.results.predictions import Predictions
from misgiving.results.schema import LabelledDecision, Measurement

CLASS = "class"
SHARES: dict[str, Outcome] = {
    "coverage": "accept",
    "deferred_share": "defer",
    "ood_share": "ood",
}
DECISIONS, SUBGROUPS = "decisions.csv", "subgroups.csv"


class PolicyEvaluation(NamedTuple):
    """Decisions on a labelled set, and their measurements.

    Attributes:
        decisions: One for each image.
        measurements: Shares of decisions and the error among the accepted, over all images.
        subgroups: The same by class and metadata, on one image of each group.
        summary: Sentences, with one for each subgroup that fares significantly worse.
    """

    decisions: list[LabelledDecision]
    measurements: list[Measurement]
    subgroups: list[Subgroup]
    summary: list[str]

    def write(self, folder: Path) -> None:
        """Write `decisions.csv` and `subgroups.csv`."""
        write_table(folder / DECISIONS, LabelledDecision, self.decisions)
        write_table(folder / SUBGROUPS, Subgroup, self.subgroups)


def measure_decisions(
    decisions: Sequence[Decision],
    predictions: Predictions,
    dataset: str,
    metadata: Mapping[str, Sequence[str]],
    *,
    seed: int,
) -> PolicyEvaluation:
    """Measure decisions on a labelled set, and audit them by subgroup.

    Args:
        decisions: The decision on each image.
        predictions: Of these images, with their true classes and groups.
        dataset: Name of the set in the results.
        metadata: Values of each image by column.
        seed: Of the draw of one image from each group, for the audit.
    """
    outcomes = np.array([one.decision for one in decisions])
    names = [predictions.classes[label] for label in predictions.labels]
    accepted = outcomes == "accept"
    wrong = np.array([one.predicted_class for one in decisions]) != np.array(names)
    measurements = measure_shares(decisions, dataset)
    if accepted.any():
        error = float(wrong[accepted].mean())
        measurements.append(Measurement(dataset, "policy", "error_among_accepted", error))
    rows = one_per_group(predictions.groups, seed=seed)
    subgroups = audit(
        {
            column: [values[row] for row in rows]
            for column, values in {CLASS: names, **metadata}.items()
        },
        accepted[rows],
        outcomes[rows] == "ood",
        wrong[rows],
    )
    cases, taken = len(rows), int(accepted[rows].sum())
    overall = f"policy, on one image of each of {cases} groups: accepted {_share(taken, cases)}"
    if taken:
        overall += f"; wrong among these {_share(int((wrong & accepted)[rows].sum()), taken)}"
    return PolicyEvaluation(
        decisions=[
            LabelledDecision(identity, name, *(getattr(one, field) for field in _FIELDS))
            for identity, name, one in zip(predictions.ids, names, decisions, strict=True)
        ],
        measurements=measurements,
        subgroups=subgroups,
        summary=[overall, *(_worse(group) for group in subgroups if group.worse)],
    )


_FIELDS = LabelledDecision._fields[2:]  # those of a decision


def measure_shares(decisions: Sequence[Decision], dataset: str) -> list[Measurement]:
    """The shares of a set that are accepted, deferred and OOD."""
    outcomes = [one.decision for one in decisions]
    return [
        Measurement(dataset, "policy", name, outcomes.count(outcome) / len(outcomes))
        for name, outcome in SHARES.items()
    ]


def _share(events: int, cases: int) -> str:
    """A share with its exact interval, in words."""
    low, high = two_sided_interval(events, cases, level=0.05)
    return f"{events} of {cases} ({events / cases:.1%}, 95 % interval {low:.1%} to {high:.1%})"


def _worse(group: Subgroup) -> str:
    counts = {
        "coverage": ("accepted", group.accepted, group.cases),
        "error": ("wrong among accepted", group.errors, group.accepted),
        "deferral": ("deferred", group.deferred, group.cases),
    }
    worse = (counts[quantity] for quantity in group.worse)
    return f"fares worse: {group.name} {group.value}: " + ", ".join(
        f"{words} {_share(events, cases)}" for words, events, cases in worse
    )
