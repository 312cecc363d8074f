"""Decisions on a set of images, and the reason for each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import expit

from misgiving.deferral.certificate import Certificate, mark_acceptable
from misgiving.deferral.settings import DecisionRule

if TYPE_CHECKING:
    import pandas

OF_CLASS = "probability_"  # before the name of a class
NO_POLICY = "no policy is calibrated for this model, so every image is deferred"
NOT_FINITE = "there is no finite score, so the image is deferred"
NO_THRESHOLD = "no threshold certifies the target error rate, so every image is deferred"
AT_OOD_THRESHOLD = "the OOD score is exactly at its threshold, so the image is deferred"
ALL_LIMITED = "the limit for all answers"
SURPASSED = "another class is more probable than the predicted one"
ALL_ACCEPTED = "the policy accepts every image that is in-distribution and likely to be right"

Outcome = Literal["accept", "defer", "ood"]
Values = Float[np.ndarray, " n"]
Classes = Int[np.ndarray, " n"]
Logits = Float[np.ndarray, "n classes"]


class Decision(NamedTuple):
    """The decision for one image; a number is None where it is not available or not finite.

    Attributes:
        decision: "accept", "defer" or "ood"; always "defer" without a policy.
        predicted_class: By the rule of the policy; without a policy, that of the largest logit.
        probabilities: By class, in the order of the logits; calibrated where there is a policy, and
            NaN where outputs are not finite. That of the predicted class is 1 -
            `error_probability`.
        error_probability: Probability that the predicted class is wrong.
        ood_p_value: Share of in-distribution images that look as unusual as this one, or more so.
        reason: Why, in words.
        expected_loss: Expected cross-entropy in nats.
        predicted_loss: Output of the loss estimator, not negated as the score of this name is:
            higher means more likely wrong. No unit.
        acceptance_score: Higher means more likely correct.
        ood_score: Lower means more likely out-of-distribution.
    """

    decision: Outcome
    predicted_class: str
    probabilities: dict[str, float]
    error_probability: float | None
    ood_p_value: float | None
    reason: str
    expected_loss: float | None
    predicted_loss: float | None
    acceptance_score: float | None
    ood_score: float | None

    @property
    def probability(self) -> float:
        """Probability of the predicted class."""
        return self.probabilities[self.predicted_class]


NUMBERS = (
    "acceptance_score",
    "error_probability",
    "expected_loss",
    "predicted_loss",
    "ood_score",
    "ood_p_value",
)
"""Fields of both records below that are numbers, not available for every image."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Decisions(Sequence[Decision]):
    """Decisions on images as arrays, and as the sequence of each `Decision`, with its reason.

    A number is NaN where it is not available or not finite.

    Attributes:
        classes: Names of the classes, in the order of the logits.
        decisions: "accept", "defer" or "ood".
        predicted: Position of the predicted class.
        probabilities: As in a `Decision`; so are the numbers after it.
        certificate: Of the policy that decided; None without a policy.
        threshold: Lowest accepted score; -inf: all; None: none is accepted.
        rule: By which the policy predicts classes.
        accepts_by_probability: True if the acceptance score is a function of the error probability.
        knows_training: True if the OOD score compares an image with those of the training.
        ids: Names of the images, where they are of predictions.
    """

    classes: tuple[str, ...]
    decisions: Shaped[np.ndarray, " n"]
    predicted: Classes
    probabilities: Logits
    error_probability: Values
    ood_p_value: Values
    acceptance_score: Values
    ood_score: Values
    expected_loss: Values
    predicted_loss: Values
    certificate: Certificate | None = None
    threshold: float | None = None
    rule: DecisionRule = field(default_factory=DecisionRule)
    accepts_by_probability: bool = False
    knows_training: bool = False
    ids: tuple[str, ...] = ()

    @classmethod
    def undecided(cls, classes: Sequence[str], **columns: Any) -> "Decisions":
        """Defer every image for now; `by_threshold` decides where there is a policy."""
        decisions = np.full(len(columns["predicted"]), "defer")
        return cls(classes=tuple(classes), decisions=decisions, **columns)

    def by_threshold(self, threshold: float | None) -> "Decisions":
        """Decide by the lowest accepted score; None: no image is accepted."""
        if self.certificate is None:
            return self
        outcomes = self.certificate.decide(*self.judged, threshold)
        return replace(self, decisions=outcomes, threshold=threshold)

    @property
    def judged(self) -> tuple[Values, Values, Bool[np.ndarray, " n"]]:
        """Acceptance scores, OOD scores, and which answers can be accepted: they decide."""
        acceptable = mark_acceptable(self.rule, self.probabilities, self.predicted)
        return self.acceptance_score, self.ood_score, acceptable

    def __len__(self) -> int:
        return len(self.decisions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    @overload
    def __getitem__(self, row: int) -> Decision: ...
    @overload
    def __getitem__(self, row: slice) -> "Decisions": ...
    def __getitem__(self, row: int | slice) -> "Decision | Decisions":
        if isinstance(row, slice):
            return replace(self, ids=self.ids[row], **{k: x[row] for k, x in self._arrays.items()})
        position = range(len(self))[row]
        return next(iter(self[position : position + 1]))

    def __iter__(self) -> Iterator[Decision]:
        columns = {name: values.tolist() for name, values in self._arrays.items()}
        for values in zip(*columns.values(), strict=True):
            yield self._decision(**dict(zip(columns, values, strict=True)))

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each image, by the columns that `misgiving predict` writes."""
        import pandas

        columns = {
            **({"id": self.ids} if self.ids else {}),
            "predicted_class": np.array(self.classes, dtype=object)[self.predicted],
            "decision": self.decisions,
            "reason": [each.reason for each in self],
            **{name: getattr(self, name) for name in NUMBERS},
        }
        shares = zip(self.classes, self.probabilities.T, strict=True)
        return pandas.DataFrame(columns | {f"{OF_CLASS}{name}": each for name, each in shares})

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The arrays without the decisions, by name."""
        return {name: values for name, values in self._arrays.items() if name != "decisions"}

    @property
    def _arrays(self) -> dict[str, Any]:
        values = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: array for name, array in values.items() if isinstance(array, np.ndarray)}

    def _decision(
        self,
        decisions: Outcome,
        predicted: int,
        probabilities: list[float],
        **numbers: float,
    ) -> Decision:
        by_class = dict(zip(self.classes, probabilities, strict=True))
        name = self.classes[predicted]
        reason = NO_POLICY
        if self.certificate is not None:
            reason = self._decision_reason(self.certificate, decisions, numbers)
            reason += self._prediction_reason(name, by_class)
        return Decision(
            decision=decisions,
            predicted_class=name,
            probabilities=by_class,
            reason=reason,
            **{name: x if math.isfinite(x) else None for name, x in numbers.items()},
        )

    def _prediction_reason(self, name: str, probabilities: dict[str, float]) -> str:
        """A clause on why the predicted class is not the most probable one; empty where it is."""
        most = max(probabilities, key=lambda other: probabilities[other])
        costs = [f"{self.rule.costs.get(other, 1.0):g}" for other in (name, most)]
        why = {
            "balanced": "for its probability relative to its share of the cases",
            "costs": f"because missing it costs {costs[0]}, and missing {most} {costs[1]}",
            "logits": "by the largest logit",
        }.get(self.rule.rule)
        if not probabilities[most] > probabilities[name]:  # also where they are NaN
            return ""
        if why is None:
            return f"; the second opinion prefers {most}"
        return f"; {name} is predicted {why}, though {most} is more probable"

    def _decision_reason(
        self, certificate: Certificate, decision: Outcome, numbers: dict[str, float]
    ) -> str:
        """In terms of the number that decided."""
        if decision == "ood":
            p_value, cases = numbers["ood_p_value"], len(certificate.ood_scores)
            below = round(p_value * (cases + 1)) - 1  # calibration cases that are no more familiar
            share = f" but {100 * below / cases:.2g} % of the" if below else ""
            less = "less like the training images" if self.knows_training else "lower OOD score"
            return f"{less} than all{share} calibration cases (p = {p_value:.2g})"
        score, ood_score = numbers["acceptance_score"], numbers["ood_score"]
        limit, threshold = certificate.ood_threshold, self.threshold
        error, highest = numbers["error_probability"], self.rule.max_error_probability
        if not math.isfinite(score) or (limit is not None and not math.isfinite(ood_score)):
            return NOT_FINITE
        if error > highest:
            return comparison("probability of error", error, "above", highest, ALL_LIMITED)
        if threshold is None:
            return NO_THRESHOLD
        if ood_score == limit:
            return AT_OOD_THRESHOLD
        return self._threshold_reason(threshold, score, error, accepted=decision == "accept")

    def _threshold_reason(
        self, threshold: float, score: float, error: float, *, accepted: bool
    ) -> str:
        """In terms of the error, unless that would contradict the score, which decides."""
        reached = score >= threshold
        limit = float(expit(-threshold)) if self.accepts_by_probability else None
        if reached and not accepted:
            return SURPASSED
        if threshold == -math.inf:
            return ALL_ACCEPTED
        if limit is None or not (error <= limit if reached else error > limit):
            relation = "at least" if reached else "below"
            return comparison("score", score, relation, threshold, "the lowest that is accepted")
        relation = "within" if reached else "above"
        return comparison(
            "probability of error", error, relation, limit, "the highest that is accepted"
        )


def comparison(subject: str, value: float, relation: str, limit: float, role: str) -> str:
    """Reason that compares a number with its limit, in as many digits as show that they differ.

    >>> comparison("score", 0.4, "below", 0.75, "the lowest that is accepted")
    'score 0.40 is below 0.75, the lowest that is accepted'
    >>> comparison("score", 0.12301, "below", 0.12304, "the lowest that is accepted")
    'score 0.12301 is below 0.12304, the lowest that is accepted'
    >>> comparison("probability of error", 0.0012, "within", 0.05, "the limit for all")
    'probability of error 0.001 is within 0.050, the limit for all'
    """
    texts = repr(value), repr(limit)
    for digits in range(16, 1, -1):
        rounded = f"{value:.{digits}f}", f"{limit:.{digits}f}"
        differ = rounded[0] != rounded[1] or value == limit
        if differ and (float(rounded[0]) or not value):  # only 0 is 0.00
            texts = rounded
    return f"{subject} {texts[0]} is {relation} {texts[1]}, {role}"
