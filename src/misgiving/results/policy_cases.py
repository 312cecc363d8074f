"""`cases.json` of a policy: its images, and the earlier calibrations of its run."""

from dataclasses import dataclass
from typing import NamedTuple

from misgiving.results.schema import SkippedImage


class RecordedCalibration(NamedTuple):
    """A policy that a run has or had: the fingerprint of its calibration set, and its target.

    Attributes:
        repeated_images: Its images, for tuning or calibration, that earlier calibrations had used.
        repeated_groups: Its groups of which earlier calibrations had used an image.
    """

    fingerprint: str
    max_error: float
    repeated_images: int
    repeated_groups: int


class PolicyImages(NamedTuple):
    """A set of images that a policy was fitted on."""

    images: tuple[str, ...]
    hashes: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PolicyCases:
    """`cases.json` of a policy: its images, and all calibrations of the run in their order.

    Attributes:
        group_columns: Columns of the data that define the groups; none: each image is its own.
        calibrations: The last is that of this policy.
        earlier: All images that the calibrations before it used, for tuning or calibration.
        complete: False where the record of an earlier calibration could not be read.
        outputs: `logits` or `probabilities`, as in `Predictions`; empty where it is not known.
        notes: Sentences on how the policy was fitted.
    """

    data: str
    seed: int
    outputs: str
    notes: tuple[str, ...]
    group_columns: tuple[str, ...]
    calibrations: tuple[RecordedCalibration, ...]
    earlier: PolicyImages
    complete: bool
    tune: PolicyImages
    calibration: PolicyImages
    skipped: tuple[SkippedImage, ...]
