"""The report of an evaluation: answers to labelled images, and the policy that accepts some."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from misgiving.data.decoding import Picture
from misgiving.deferral.deferral import Deferral
from misgiving.metrics.subgroups import Subgroup

Outcomes = Shaped[np.ndarray, " _"]  # "accept", "defer" or "ood"


class NamedClasses(NamedTuple):
    """True and named classes, as positions among the names."""

    names: tuple[str, ...]
    true: Int[np.ndarray, " n"]
    named: Int[np.ndarray, " n"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """The answer to each image of a labelled set.

    Attributes:
        wrong: True where the named class is wrong.
        scores: Acceptance scores; higher means more likely correct; -inf: never accepted.
        score: Name of the acceptance score.
        probabilities: Of the named class.
        groups: Number of each image's group; images of one group are not independent.
        ids: Name of each image.
        classes: None where only the correctness is known.
        outcomes: Decisions; None without a policy.
        reasons: Of the decisions.
        picture: Reads the image in a row, None where it cannot; None: there are no images.
    """

    wrong: Bool[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    score: str
    probabilities: Float[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    ids: tuple[str, ...]
    classes: NamedClasses | None = None
    outcomes: Outcomes | None = None
    reasons: Sequence[str] = ()
    picture: Callable[[int], Picture | None] | None = None

    def __len__(self) -> int:
        return len(self.wrong)

    @cached_property
    def num_groups(self) -> int:
        """Number of groups."""
        return len(np.unique(self.groups))


class ScoredImages(NamedTuple):
    """OOD scores (lower means more likely out-of-distribution), groups, and decisions if any."""

    scores: Float[np.ndarray, " _"]
    groups: Int[np.ndarray, " n"]
    outcomes: Outcomes | None = None


class Detection(NamedTuple):
    """OOD scores by one detector, of in-distribution images and of each OOD set."""

    detector: str
    inliers: ScoredImages
    outliers: Mapping[str, ScoredImages]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluated:
    """All that the report of an evaluation is made from.

    Attributes:
        title: Name of the data.
        answers: To the measured images.
        deferral: The policy whose certificate is shown; None: there is none.
        warnings: Sentences on numbers that are optimistic.
        notes: Sentences on the images.
        errors: Every answer by class and metadata, as if all were accepted.
        decisions: The same for the decisions of the policy; as many, or none without a policy.
        detection: None where there are no OOD images.
        seed: Of the bootstrap.
        unit: What a group is: a patient, a lesion, an image or another group.
    """

    title: str
    answers: Answers
    deferral: Deferral | None = None
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    errors: Sequence[Subgroup] = ()
    decisions: Sequence[Subgroup] = ()
    detection: Detection | None = None
    seed: int = 0
    unit: str = "group"

    @property
    def units(self) -> str:
        """Word for the groups, which are the images where each image is a group of its own."""
        if self.answers.num_groups == len(self.answers):
            return "images"
        return f"{self.one_unit}s"

    @property
    def one_unit(self) -> str:
        """Word for one of several groups."""
        return self.unit if self.unit in ("patient", "lesion") else "group"
