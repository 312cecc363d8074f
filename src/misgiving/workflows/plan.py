"""`misgiving plan`: before a training, what the calibration set of a split can certify."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from misgiving.data.datasets import load_dataset
from misgiving.data.splits import grouped_split
from misgiving.deferral.planning import CertificationOutlook, outlook_sentences, plan_certification
from misgiving.deferral.targets import Targets


class DataPlan(NamedTuple):
    """The outlook of a data set, its calibration cases by class, and sentences about both."""

    outlook: CertificationOutlook
    cases_by_class: dict[str, int]
    summary: list[str]


def plan_data(data: str, targets: Targets, *, seed: int = 0) -> DataPlan:
    """Plan the certification with the calibration set of a grouped split.

    Reads labels and groups, and no image: near duplicates, which training puts into one group, are
    not found, so there may be slightly fewer cases.

    Args:
        data: The data as the user names it.
        targets: The error rates to certify.
        seed: Of the split.
    """
    dataset = load_dataset(data)
    sets = grouped_split(dataset.labels, dataset.classes, dataset.groups, seed=seed)
    chosen = np.flatnonzero(sets == "calibrate")
    label_of = {dataset.groups[row]: int(dataset.labels[row]) for row in chosen}
    counts = Counter(label_of.values())
    cases = {name: counts[label] for label, name in enumerate(dataset.classes)}
    outlook = plan_certification(cases, targets)
    by_class = ", ".join(f"{name} {count}" for name, count in cases.items())
    summary = [
        f"{dataset.name}: {len(dataset)} images; the calibration set has {len(chosen)} images of "
        f"{outlook.cases} groups ({by_class})",
        *outlook_sentences(outlook),
    ]
    return DataPlan(outlook, cases, summary)
