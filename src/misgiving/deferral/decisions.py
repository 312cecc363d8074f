"""Decisions on a set of cases, and the columns of every table of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, overload

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import BaseModel, BeforeValidator, Field
from scipy.special import softmax

from misgiving.arrays import Values
from misgiving.deferral.reasons import reasons_of
from misgiving.errors import DataError
from misgiving.scores.outputs import Outputs

if TYPE_CHECKING:
    import pandas

Outcome = Literal["accept", "defer", "ood"]
OF_CLASS = "probability_"  # before the name of a class


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""None where it is not available or not finite."""


class Decision(BaseModel):
    """The decision for one case; a number is None where it is not available or not finite.

    The fields are the columns of each table of decisions, in this order; it has a column
    `probability_CLASS` for each class in place of `probabilities`.
    """

    predicted_class: str = Field(
        description="By the rule of the policy; without a policy, that of the largest logit."
    )
    probability: Number = Field(
        description="Of the answer: 1 - `error_probability`. Neither is shown where the tuning "
        "cases are too few for a number about one case."
    )
    predicted_loss: Number = Field(
        description="Output of the loss estimator, not negated as the score of this name is: "
        "higher means more likely wrong. No unit."
    )
    answer: str | None = Field(
        default=None,
        description="The superclass where the policy answers superclasses, of which the predicted "
        "class is then the most probable one; else, and where `finest` certifies it, the predicted "
        "class. What the decision, `probability` and `error_probability` are about.",
    )
    decision: Outcome = Field(description="Always `defer` without a policy.")
    reason: str = Field(description="Of the decision, in words.")
    error_probability: Number = Field(description="Probability that the answer is wrong.")
    expected_cost: Number = Field(
        default=None,
        description="Of the answer, by `costs`; only where a policy has a `review_cost`.",
    )
    expected_loss: Number = Field(description="Expected cross-entropy, in nats.")
    ood_p_value: Number = Field(
        description="Share of in-distribution cases that look as unusual as this one, or more so."
    )
    acceptance_score: Number = Field(description="Higher means more likely correct.")
    ood_score: Number = Field(description="Lower means more likely out-of-distribution.")
    probabilities: dict[str, Number] = Field(
        description="By class, in the order of the logits; calibrated where there is a policy."
    )


COLUMNS = tuple(name for name in Decision.model_fields if name != "probabilities")
WITHOUT_POLICY = COLUMNS[:3]
"""Columns that have values where no policy decides."""
NUMBERS = tuple(name for name in COLUMNS if Decision.model_fields[name].annotation == float | None)


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredImages:
    """Cases with all that decides about them; a number is NaN where it is not available.

    Attributes:
        predicted: Position of the predicted class.
        probabilities: By class.
        acceptable: False where a case is deferred whatever its score.
        class_score: Log-odds that the predicted class is right, where `finest` may answer it; never
            above those of its superclass. -inf where it may not, NaN for another policy.

    The other attributes are columns of a `Decision`.
    """

    predicted: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n classes"]
    acceptable: Bool[np.ndarray, " n"]
    class_score: Values
    error_probability: Values
    ood_p_value: Values
    acceptance_score: Values
    ood_score: Values
    expected_cost: Values
    expected_loss: Values
    predicted_loss: Values

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def arrays(self) -> dict[str, Any]:
        """All arrays, by their names."""
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: array for name, array in values.items() if isinstance(array, np.ndarray)}


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Decisions(ScoredImages, Sequence[Decision]):
    """Decisions on cases as arrays, and as the sequence of each `Decision`, with its reason.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        decisions: "accept", "defer" or "ood".
        as_class: True where the answer is a class, and not a superclass.
        part: Position of the threshold of each case; -1: there is none for its value.
        thresholds: Lowest accepted score, or that of each value of `for_each`; -inf: all are
            accepted; inf: none is.
        policy: The `Policy` that made and explains them; None without one.
        ids: Names of the cases, where they are of predictions.
        gaps: Largest differences from the distributions of the calibration cases, by score, where
            these differ; `acceptance` or `ood`.
        certified: False where a lower threshold than the certified one was asked for.
    """

    classes: tuple[str, ...]
    decisions: Shaped[np.ndarray, " n"]
    as_class: Bool[np.ndarray, " n"]
    part: Int[np.ndarray, " n"]
    thresholds: tuple[float, ...] = (math.inf,)
    policy: Any = None  # its module imports this one
    ids: tuple[str, ...] = ()
    gaps: Mapping[str, float] = field(default_factory=dict)
    certified: bool = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    @overload
    def __getitem__(self, row: int) -> Decision: ...
    @overload
    def __getitem__(self, row: slice) -> "Decisions": ...
    def __getitem__(self, row: int | slice) -> "Decision | Decisions":
        if isinstance(row, slice):
            return replace(self, ids=self.ids[row], **{k: x[row] for k, x in self.arrays.items()})
        position = range(len(self))[row]
        return next(iter(self[position : position + 1]))

    @property
    def threshold(self) -> float:
        """Lowest accepted score of all."""
        return min(self.thresholds)

    @property
    def answers(self) -> tuple[str, ...]:
        """Names of the superclasses where these are answered, or else of the classes."""
        return self.classes if self.policy is None else self.policy.certificate.answers

    @property
    def answered(self) -> Int[np.ndarray, " n"]:
        """Position of each answer among `answers`."""
        return self.answers_of(self.predicted)

    @property
    def answer_probabilities(self) -> Float[np.ndarray, "n answers"]:
        """Probabilities by answer."""
        if self.policy is None:
            return self.probabilities
        return np.asarray(self.policy.calibration.sums(self.probabilities))

    def answers_of(self, classes: Int[np.ndarray, " any"]) -> Int[np.ndarray, " any"]:
        """Positions of the answers that these classes are or belong to."""
        return classes if self.policy is None else self.policy.calibration.answers_of(classes)

    def wrong(self, labels: Any) -> Bool[np.ndarray, " n"]:
        """True where the answer, or of `finest` its superclass, is not the true one.

        Args:
            labels: True class of each case: its position in `classes`, or its name.

        Raises:
            DataError: They are not one class for each case.
        """
        # deciding needs no reader of tables
        from misgiving.predictions.cells import positions_of, texts_of

        labels = np.asarray(labels)
        if labels.shape != (len(self),):
            shape = f"the labels have the shape {labels.shape}, and there are {len(self)} decisions"
            raise DataError(f"{shape}; give one label for each")
        if not np.issubdtype(labels.dtype, np.integer):
            labels = positions_of("label", texts_of(labels), self.classes)
        return np.asarray(self.answered != self.answers_of(labels))

    @property
    def _cells(self) -> dict[str, Any]:
        """Values of each case by column of a `Decision`."""
        rows = np.arange(len(self))
        of_answers = self.answer_probabilities[rows, self.answered]
        shares = np.where(self.as_class, self.probabilities[rows, self.predicted], of_answers)
        is_shown = self.policy is None or self.policy.certificate.shows_errors
        answers, classes = (np.array(x, dtype=object) for x in (self.answers, self.classes))
        return self.arrays | {
            "predicted_class": classes[self.predicted],
            "probability": shares if is_shown else np.full_like(shares, np.nan),
            "answer": np.where(self.as_class, classes[self.predicted], answers[self.answered]),
            "decision": self.decisions,
            "reason": np.array([*reasons_of(self)], dtype=object),
        }

    def __iter__(self) -> Iterator[Decision]:
        cells, rows = self._cells, self.probabilities.tolist()
        columns = [[_finite_or_none(cell) for cell in cells[name].tolist()] for name in COLUMNS]
        for values, shares in zip(zip(*columns, strict=True), rows, strict=True):
            by_class = dict(zip(self.classes, map(_finite_or_none, shares), strict=True))
            row = dict(zip(COLUMNS, values, strict=True))
            yield Decision.model_construct(**row, probabilities=by_class)

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each case, with the columns of a `Decision`, NaN for None."""
        import pandas

        cells = self._cells
        columns = {"id": self.ids} if self.ids else {}
        columns |= {name: cells[name] for name in COLUMNS}
        shares = zip(self.classes, self.probabilities.T, strict=True)
        columns |= {f"{OF_CLASS}{name}": each for name, each in shares}
        return pandas.DataFrame(columns).replace([math.inf, -math.inf], math.nan)

    def __repr__(self) -> str:
        counts = (f"{name} {np.sum(self.decisions == name)}" for name in get_args(Outcome))
        return f"Decisions on {len(self)}: {', '.join(counts)}"

    def plot(self, labels: Any = None, axes: Any = None, *, images: Any = None) -> Any:
        """Draw scores by decision, or reliability given labels, or examples given the images.

        `labels` are positions or names of the true classes, as for `wrong`.
        """
        if images is not None:
            return plots().plot_examples(self, images)
        return plots().plot_decisions(self, labels, axes)


def plots() -> ModuleType:
    """The plots, found by name: matplotlib, and the layer above, are loaded when one is drawn."""
    return import_module("misgiving.report.plots")


def unscored(outputs: Outputs) -> ScoredImages:
    """Cases of which only the class of the largest logit and the predicted loss are known."""
    count, losses = len(outputs), outputs.predicted_losses
    numbers = {name: np.full(count, np.nan) for name in NUMBERS if name != "probability"}
    if losses is not None:
        numbers["predicted_loss"] = losses.astype(np.float64)
    return ScoredImages(
        predicted=outputs.logits.argmax(axis=1),
        probabilities=np.full(outputs.logits.shape, np.nan),
        class_score=np.full(count, np.nan),
        acceptable=np.zeros(count, dtype=bool),
        **numbers,
    )


def score_without_policy(outputs: Outputs) -> ScoredImages:
    """Cases of a model for which no policy is calibrated: the softmax of their logits."""
    scored, logits = unscored(outputs), outputs.logits
    finite = np.isfinite(logits).all(axis=1)
    scored.probabilities[finite] = softmax(logits[finite].astype(np.float64), axis=1)
    return scored


def defer_all(scored: ScoredImages, classes: Sequence[str]) -> Decisions:
    """Defer every case, as no policy is calibrated."""
    deferred = np.full(len(scored), "defer")
    return Decisions(
        **scored.arrays,
        classes=tuple(classes),
        decisions=deferred,
        as_class=np.ones(len(scored), dtype=bool),
        part=np.zeros(len(scored), dtype=int),
    )
