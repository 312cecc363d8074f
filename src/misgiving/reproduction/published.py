"""The numbers that the paper prints, and the settings behind them.

Narayanaswamy et al., "Loss Estimators Improve Model Generalization". Numbers are in %, as printed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """A number that the paper prints for both of its models.

    `dataset` is empty in the figures: the measured images of 4.1, whose set depends on the split,
    and the images of all unseen classes.
    """

    experiment: str
    dataset: str
    detector: str
    metric: str
    vanilla: float
    proposed: float

    @property
    def difference(self) -> float:
        """Proposed minus vanilla as a fraction, the unit of `intervals.csv`."""
        return (self.proposed - self.vanilla) / 100


PAPER_SETS = {
    "nct": "NCT",
    "b_box": "B-Box",
    "b_box_70": "B-Box-70",
    "imagenet": "ImageNet",
    "clin_skin": "Clin-Skin",
    "derm_skin": "Derm-Skin",
}
"""The OOD sets of Section 4.2 by their names in the paper, as in Table 1 and Figure 4."""

PAPER_IMAGES = dict(zip(PAPER_SETS, (1350, 2025, 2454, 3000, 723, 1565), strict=True))
"""The number of images of each ("OOD Datasets")."""

READ_OTHERWISE = {"b_box_70_image": "b_box_70"}
"""Another reading of a set: boxes over 70 % of the image would explain a perfect separation."""

PAPER_NAMES = ("nct", "b_box", "b_box_70", "b_box_70_image", "imagenet", "clin_skin", "derm_skin")
"""The names that are for the paper's sets and their other readings, in the order of Table 1."""

TUNING_SET = "nct"
METRICS = ("fpr_at_tpr95", "detection_error", "auroc", "aupr_in", "aupr_out")
"""The columns of Table 1."""

_TABLE_1 = {  # vanilla and proposed, under each of the metrics
    "nct": ((51.41, 17.93), (21.44, 10.19), (87.27, 96.43), (91.41, 97.73), (81.71, 94.43)),
    "b_box": ((36.43, 5.16), (17.84, 4.91), (90.74, 98.74), (90.91, 98.71), (91.15, 98.71)),
    "b_box_70": ((0.0, 0.0), (0.1, 0.1), (100.0, 100.0), (99.97, 99.97), (99.98, 99.98)),
    "imagenet": ((71.05, 47.35), (28.7, 20.92), (79.03, 87.57), (81.68, 87.74), (76.38, 86.84)),
    "clin_skin": ((65.56, 35.13), (25.0, 14.11), (82.58, 92.15), (93.37, 96.71), (61.07, 79.09)),
    "derm_skin": ((56.04, 21.6), (21.6, 10.38), (87.14, 95.69), (91.22, 97.2), (82.59, 92.14)),
}

FIGURE_3 = Published("generalization", "", "", "balanced_accuracy", 73.1, 77.9)
FIGURE_5 = Published("new_classes", "", "odin", "auroc", 56.3, 65.26)


def table_1(paper_set: str) -> Iterator[Published]:
    """One row of Table 1, metric by metric.

    >>> [round(100 * cell.difference, 2) for cell in table_1("b_box")]
    [-31.27, -12.93, 8.0, 7.8, 7.56]
    """
    for metric, pair in zip(METRICS, _TABLE_1[paper_set], strict=True):
        yield Published("ood_detection", paper_set, "odin", metric, *pair)


MINORITY = ("BCC", "AK", "DF")
PAPER_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "": {
        "images": 25_331,
        "in_distribution_images": 21_826,
        "trials": 3,
        "classes": ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC"),
        "in_distribution": ("MEL", "NV", "BCC", "AK", "DF"),
        "unseen": ("BKL", "VASC", "SCC"),
        "split": "paper",
        "validation_share": 0.1,
        "measured_set": "validation",
    },
    "preprocessing": {"image_size": 224, "crop": 0.85},
    "training": {
        "epochs": 50,
        "batch_size": 64,
        "learning_rate": 1e-4,
        "decay_factor": 0.5,
        "decay_every": 10,
        "beta1": 0.9,
        "weight_decay": 5e-4,
        "auxiliary_weight": 0.5,
        "class_weights": "inverse",
        "sampling": "inverse",
        "estimator_rate": 1.0,
    },
    "model": {"dropout": 0.4},
}
"""The settings of Sections 2 and 4, by the configuration in which a run records them."""

LESION_DATA = ("isic2019", "ham10000")  # kinds of data whose groups are lesions


def title(name: str) -> str:
    """A set's name as a reader sees it.

    >>> title("b_box_70"), title("b_box_70_image"), title("unseen/BKL"), title("clean_walls")
    ('B-Box-70', 'B-Box-70 of the image', 'unseen: BKL', 'clean walls')
    """
    if name in READ_OTHERWISE:
        return f"{PAPER_SETS[READ_OTHERWISE[name]]} of the image"
    return PAPER_SETS.get(name) or name.replace("unseen/", "unseen: ").replace("_", " ")
