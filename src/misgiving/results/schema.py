"""The rows and documents that runs, evaluations and reproductions write.

Rows are NamedTuples, or dataclasses where one has the columns of another.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class EpochRecord:
    """One row of a run's `history.csv`: a set, measured in evaluation mode after an epoch.

    The training set is measured without augmentation or dropout on a fixed random draw of as many
    images as the monitored set has, so that both mean the same. What concerns the estimated losses
    is undefined (NaN, None when read) where no loss is estimated: the auxiliary loss, the Spearman
    correlation of predicted and true loss, sd(predicted) / sd(true) and R2 against a constant.
    """

    epoch: int
    set: str
    primary_loss: float
    auxiliary_loss: float | None
    accuracy: float
    balanced_accuracy: float
    rank_correlation: float | None
    spread_ratio: float | None
    r_squared: float | None


class SkippedImage(NamedTuple):
    """One row of `skipped.csv`: an image that cannot be read, and why."""

    set: str
    image: str
    reason: str


class SplitLeakage(NamedTuple):
    """Groups and identical images that the sets of a split share.

    Attributes:
        experiment: Of the trial; empty for a single training.
        shared_groups: Groups with images in more than one set.
        leaking_images: Measured images whose group, or a copy of which, is in the training set.
        measured_images: Images of the measured set.
        separate: Whether neither a group nor an identical image is in two sets.
    """

    experiment: str
    trial: int
    shared_groups: int
    leaking_images: int
    measured_images: int
    separate: bool

    def sentence(self, measured: str) -> str:
        """Summary, given the name of the measured set."""
        if self.separate:
            return (
                "no group and no identical image is in two sets "
                f"({self.measured_images} images in {measured})"
            )
        return (
            f"{self.shared_groups} groups have images in more than one set; of "
            f"{self.measured_images} {measured} images, {self.leaking_images} have another image "
            "of their group, or a copy, in the training set"
        )
