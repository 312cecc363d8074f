"""Subgroups of images by class and metadata, those that fare worse first."""

import math
from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from misgiving.deferral.decisions import Decisions
from misgiving.evaluation.subgroups import Subgroup, audit
from misgiving.groups import one_per_group
from misgiving.predictions.record import Predictions

CLASS = "class"
AGES: tuple[float, ...] = (30, 50, 70)
AGE_BANDS: tuple[str, ...] = ("under 30", "30-49", "50-69", "70 or older")
LEVEL = 0.05  # of naming any quantity of any subgroup wrongly
MAX_VALUES = 12  # a column with at most so many values is kept as it is


class Harm(NamedTuple):
    """A subgroup: its errors if all were accepted, and the policy's decisions, if any."""

    errors: Subgroup
    decisions: Subgroup | None

    @property
    def worse(self) -> tuple[str, ...]:
        """Quantities that are significantly worse than elsewhere: errors and decisions together.

        `wrong` (if all were accepted), and of the policy `coverage`, `error` and `deferral`.
        """
        of_policy = self.decisions.worse if self.decisions else ()
        return (("wrong",) if self.errors.worse else ()) + of_policy


def harms_of(judged: Predictions, decisions: Decisions | None, *, seed: int) -> list[Harm]:
    """Subgroups by class and metadata, on one image of each group, in the order of harm."""
    rows = one_per_group(judged.units, seed=seed)
    drawn = judged.select(rows)
    columns = {CLASS: [drawn.classes[label] for label in drawn.labels]} | {
        f"column {name}" if name == CLASS else name: [bands[row] for row in rows]
        for name, values in judged.metadata.items()
        if (bands := banded(name, values))
    }
    wrong = drawn.errors if decisions is None else decisions.predicted[rows] != drawn.labels

    level = LEVEL / (1 if decisions is None else 2)  # errors and decisions are one family

    def audited(outcomes: Shaped[np.ndarray, " drawn"]) -> list[Subgroup]:
        return audit(columns, outcomes == "accept", outcomes == "ood", wrong, level=level)

    errors = audited(np.full(len(rows), "accept"))
    decided = [None] * len(errors) if decisions is None else audited(decisions.decisions[rows])
    pairs = map(Harm, errors, decided)
    return sorted(pairs, key=lambda harm: (not harm.worse, -harm.errors.error_lower))


def banded(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """A column of few values as it is, and numbers in bands; empty if it is neither.

    An age is in one of four bands, another number in a quarter of the column; what is no number is
    in none.
    """
    if name != "age" and len(set(values)) <= MAX_VALUES:
        return tuple(values)
    numbers = [_number(value) for value in values]
    bounds, bands = AGES, AGE_BANDS
    if name != "age":
        if any(number is None for number, value in zip(numbers, values, strict=True) if value):
            return ()
        ascending = sorted(number for number in numbers if number is not None)
        bounds = tuple(sorted({ascending[len(ascending) * part // 4] for part in (1, 2, 3)}))
        inner = (f"{low:g} to below {high:g}" for low, high in pairwise(bounds))
        bands = (f"below {bounds[0]:g}", *inner, f"{bounds[-1]:g} or more")
    return tuple("" if number is None else bands[bisect(bounds, number)] for number in numbers)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
