"""What training tells of itself after each epoch."""

from typing import NamedTuple


class EpochRecord(NamedTuple):
    """One row of `history.csv`: a part of the data, measured in evaluation mode after an epoch.

    The training part is measured without augmentation or dropout on a fixed random draw of as many
    images as the validation part has, so that both columns mean the same. Auxiliary loss, rank
    correlation (Spearman, of predicted and true loss), sd(predicted) / sd(true) and R2 against a
    constant are NaN where no loss is estimated.
    """

    epoch: int
    part: str
    primary_loss: float
    auxiliary_loss: float
    accuracy: float
    balanced_accuracy: float
    rank_correlation: float
    spread_ratio: float
    r_squared: float
