"""Targets of a policy, the rule that predicts a class, and the answers that are never accepted.

The command line reads its options from here, so NumPy is imported only where it is used.
"""

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from misgiving.errors import DataError, Parameter, UsageError, require, require_choices

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int

GuaranteeName = Literal["confident", "average"]
"""Guarantees that the command line can name; see `guarantees`."""
RuleName = Literal["most_probable", "balanced", "costs", "logits"]
AnswerName = Literal["class", "superclass", "finest"]
"""Levels at which an answer is given, and right or wrong."""

PREDICTED = "predicted_class"  # value of `for_each` that each case has by its answer
SHARE_OF_ERROR = 0.15  # of the level, where there are other targets; these have few cases


def number_of(text: str) -> float:
    """The finite number that a text is; NaN where it is none.

    >>> number_of("40"), number_of("forty"), number_of("inf")
    (40.0, nan, nan)
    """
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def bands_of(limits: Sequence[float]) -> tuple[str, ...]:
    """Names of the ranges of numbers that rising limits divide.

    >>> bands_of([40.0, 70.0])
    ('below 40', '40 to below 70', '70 or more')
    """
    inner = (f"{low:g} to below {high:g}" for low, high in pairwise(limits))
    return f"below {limits[0]:g}", *inner, f"{limits[-1]:g} or more"


def check_known(classes: Sequence[str], **parameters: Mapping[str, float]) -> None:
    """Check that parameters have values of these classes alone."""
    for name, values in parameters.items():
        if unknown := [key for key in values if key not in classes]:
            raise UsageError(
                Parameter(name),
                f" has the unknown class {unknown[0]!r}; choose from {', '.join(classes)}",
            )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Error rates, and the confidence with which they hold.

    Attributes:
        max_error: Highest share of wrong predictions among the accepted.
        confidence: Probability, over draws of the calibration set, that the targets hold.
        class_max_miss: Largest share of a class that may be accepted as another class, or of a
            superclass as another superclass.
        max_silent_error: Largest share of all cases that may be accepted with a wrong prediction;
            holds for single cases under both guarantees.
        max_deferred: Largest share of all cases that a person may have to look at. Alone, it
            sets the threshold, and the error there is bounded; beside other targets these do.
        review_cost: Cost of a review, beside costs of wrong answers (1 for those not given): an
            answer with a higher expected cost is left to a person.
        max_ood_false_alarms: Largest share of ordinary cases that may be flagged as
            out-of-distribution, with a confidence of its own; off: flag none.
        for_each: Certify `max_error` for each value of this column with a threshold of its own:
            predicted_class, or a column that is known when deciding, such as site, or age:40,70
            with limits of numbers. A case of another value is deferred.
        simultaneous: Apply the confidence to all targets of errors, and all values, jointly, or to
            each separately.
        superclasses: Classes of each superclass; each class is in one.
        answer: Level of the answers: an answer is wrong if it is another class, or another
            superclass. finest: the class where at most `max_error` of these are wrong, or else the
            superclass, of which at most `max_error` of all answers are wrong; or none.
    """

    max_error: float | None = None
    confidence: float = 0.95
    class_max_miss: Mapping[str, float] = field(default_factory=dict)
    max_silent_error: float | None = None
    max_deferred: float | None = None
    review_cost: float | None = None
    max_ood_false_alarms: float | None = 0.05
    for_each: str | None = None
    simultaneous: bool = True
    superclasses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    answer: AnswerName = "class"

    def __post_init__(self) -> None:
        require_choices(self)
        is_division = len(self.superclasses) > 1 and all(self.superclasses.values())
        can_answer = is_division or not (self.superclasses or self.answer != "class")
        require(self, "superclasses", can_answer, "be two or more, each with classes")
        rates = (
            "max_error",
            "confidence",
            "max_silent_error",
            "max_deferred",
            "max_ood_false_alarms",
        )
        for name in rates:
            rate = getattr(self, name)
            is_rate = rate is None or (isinstance(rate, int | float) and 0 < rate < 1)
            require(self, name, is_rate, "be a number between 0 and 1")
        are_rates = all(0 < rate < 1 for rate in self.class_max_miss.values())
        require(self, "class_max_miss", are_rates, "be between 0 and 1")
        alone = self.max_error is not None and not any(
            (self.class_max_miss, self.max_silent_error, self.max_deferred, self.review_cost)
        )
        is_alone = self.answer != "finest" or (alone and self.for_each is None)
        require(self, "answer", is_alone, "be given with ", Parameter("max_error"), " alone")
        is_alone = self.for_each is None or alone
        require(self, "for_each", is_alone, "go with ", Parameter("max_error"), " alone")
        limits = self.limits_of_values
        are_numbers = all(map(math.isfinite, limits)) and limits == sorted({*limits})
        require(self, "for_each", are_numbers, "have growing numbers after the colon")
        can_cost = self.review_cost is None or 0 < self.review_cost < math.inf
        require(self, "review_cost", can_cost, "be positive")
        others = Parameter("max_silent_error"), ", ", Parameter("max_deferred"), " or "
        has_target = self.limits_errors or self.max_deferred or self.review_cost
        require(
            self, "max_error", bool(has_target), "be given, or ", *others, Parameter("review_cost")
        )

    @property
    def limits_errors(self) -> bool:
        """True where a target of errors sets the threshold."""
        rates = self.max_error, self.max_silent_error
        return bool(self.class_max_miss) or any(rate is not None for rate in rates)

    @property
    def column(self) -> str:
        """The column of `for_each`; empty without one."""
        return (self.for_each or "").partition(":")[0]

    @property
    def given_column(self) -> str:
        """The column of `for_each` that must come with a case; empty where none must."""
        return "" if self.column == PREDICTED else self.column

    @property
    def limits_of_values(self) -> list[float]:
        """Numbers that divide the values of `for_each`; NaN for what is none."""
        return [number_of(x) for x in (self.for_each or "").partition(":")[2].split(",") if x]

    def check_columns(self, columns: Mapping[str, Sequence[str]]) -> None:
        """Check that cases have the column of `for_each`.

        Raises:
            DataError: They do not.
        """
        if self.given_column not in ("", *columns):
            others = f"these have {', '.join(columns)}" if columns else "these have no such column"
            raise DataError(
                *("cases need the column ", repr(self.column), " for ", Parameter("for_each")),
                f"; {others}",
            )

    def values_of(self, cells: Sequence[str]) -> list[str]:
        """Values of `for_each` of cases with these cells of its column; empty: there is none.

        >>> Targets(max_error=0.1, for_each="age:40,70").values_of(["39", "40", "", "81"])
        ['below 40', '40 to below 70', '', '70 or more']
        """
        if not (limits := self.limits_of_values):
            return [cell.strip() for cell in cells]
        bands, numbers = bands_of(limits), map(number_of, cells)
        return ["" if math.isnan(x) else bands[bisect(limits, x)] for x in numbers]

    def check_classes(self, classes: Sequence[str]) -> None:
        """Check that each of these classes is in one superclass, and that targets name them.

        Raises:
            UsageError: They do not; the message has the first class of which this holds.
        """
        listed = [name for members in self.superclasses.values() for name in members]
        for name in (*classes, *listed) if self.superclasses else ():
            places = f"is in {listed.count(name)}" if name in classes else "is no class"
            if name in self.superclasses:
                places = "is the name of a superclass"
            if places != "is in 1":
                rule = f" must have each class in exactly one, and other names: {name!r} {places}"
                raise UsageError(Parameter("superclasses"), rule)
        names = (*self.answers(classes), *self.superclasses)
        check_known(tuple(dict.fromkeys(names)), class_max_miss=self.class_max_miss)

    def answers(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Names of the answers for a model of these classes, in order."""
        return tuple(classes if self.answer_level == "class" else self.superclasses)

    @property
    def answer_level(self) -> Literal["class", "superclass"]:
        """Level of the answers that the targets are about."""
        return "class" if self.answer == "class" else "superclass"

    def positions(self, name: str, answers: Sequence[str]) -> list[int]:
        """Positions of the answers that are this class or superclass, or belong to it."""
        return [answers.index(x) for x in ([name] if name in answers else self.superclasses[name])]

    def members(self, name: str) -> tuple[str, ...]:
        """Classes that belong to this superclass; of a class, itself."""
        return self.superclasses.get(name, (name,))

    def superclass_of_each(self, classes: Sequence[str]) -> tuple[int, ...] | None:
        """Position of the superclass of each class; None without superclasses."""
        of_class = {x: at for at, each in enumerate(self.superclasses.values()) for x in each}
        return tuple(of_class[name] for name in classes) if of_class else None

    @property
    def parts(self) -> int:
        """Number of parts of the errors that the average guarantee of `max_error` counts apart."""
        return 1 + len(self.class_max_miss)

    @property
    def level(self) -> float:
        """Probability that the targets are missed; also that the OOD limit is too high."""
        return 1 - self.confidence

    def at_look(self, cases: int, looks: Sequence[int]) -> "Targets":
        """The targets for one of several calibrations of planned sizes, or for one alone.

        Each has a part of the level in proportion to its cases, and all together have the whole.

        Raises:
            DataError: No calibration with so many cases was planned.
        """
        if not looks:
            return self
        if cases not in looks:
            planned = ", ".join(map(str, looks))
            raise DataError(f"there are {cases} calibration cases, and the plan is for {planned}")
        return replace(self, confidence=1 - self.level * cases / sum(looks))

    @property
    def level_of_error(self) -> float:
        """Probability that `max_error` is missed."""
        has_others = bool(self.class_max_miss) or self.max_silent_error is not None
        half = 0.5 if self.answer == "finest" else 1.0  # for either limit
        return half * self.level * (SHARE_OF_ERROR if self.simultaneous and has_others else 1)

    @property
    def level_of_misses(self) -> float:
        """Probability that any target of classes or silent errors is missed."""
        shared = self.simultaneous and self.max_error is not None
        return self.level * (1 - SHARE_OF_ERROR if shared else 1)


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """The class that is predicted, and the answers that are never accepted.

    Attributes:
        rule: Class that is predicted: the one with the highest calibrated probability
            (most_probable), the highest probability relative to its share of the tuning set
            (balanced), the least expected cost (costs), or the largest logit (logits). Default:
            most_probable, or costs where these are given.
        costs: Cost of answering another class for a case of this class, or another superclass where
            these are answered; 1 for those not given. Implies the rule costs.
        max_error_probability: Never accept an answer whose error probability is higher.
    """

    rule: RuleName = None  # type: ignore[assignment]  # replaced when it is made
    costs: Mapping[str, float] = field(default_factory=dict)
    max_error_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.rule is None:
            object.__setattr__(self, "rule", "costs" if self.costs else "most_probable")
        require_choices(self)
        if (self.rule == "costs") != bool(self.costs):
            raise UsageError(
                Parameter("costs"), " and ", Parameter("rule", "costs"), " go together"
            )
        are_positive = all(0 < cost < math.inf for cost in self.costs.values())
        require(self, "costs", are_positive, "be positive")
        limit = self.max_error_probability
        require(self, "max_error_probability", 0 < limit <= 1, "be above 0 and at most 1")

    def class_weights(
        self, classes: Sequence[str], labels: "Int[np.ndarray, ' n']"
    ) -> "Float[np.ndarray, ' classes'] | None":
        """Factor of each answer's probability: the one with the largest product is predicted.

        The expected cost of predicting class j is the sum of c_k p_k over the other classes k,
        which is least where c_j p_j is largest.

        Args:
            classes: Names of the classes, or of the superclasses where these are answered.
            labels: True ones of the tuning set; one without cases counts as one case.

        Returns:
            None for the rule `logits`, which uses no probability.
        """
        import numpy as np

        if self.rule == "logits":
            return None
        if self.rule == "balanced":
            return len(labels) / np.maximum(np.bincount(labels, minlength=len(classes)), 1)
        return self.costs_of(classes)

    def costs_of(self, classes: Sequence[str]) -> "Float[np.ndarray, ' classes']":
        """Cost of a wrong answer for a case of each of these classes or superclasses."""
        import numpy as np

        return np.array([self.costs.get(name, 1.0) for name in classes])

    def mark_acceptable(
        self,
        probabilities: "Float[np.ndarray, 'n classes']",
        predicted: "Int[np.ndarray, ' n']",
        errors: "Float[np.ndarray, ' n']",
    ) -> "Bool[np.ndarray, ' n']":
        """Mark the answers that can be accepted: their error probability is not too high.

        Nor may another answer have a higher probability, as by a second opinion, unless the rule
        weighs them.
        """
        acceptable = errors <= self.max_error_probability
        if self.rule in ("logits", "most_probable"):
            of_predicted = probabilities[range(len(predicted)), predicted]
            acceptable &= of_predicted >= probabilities.max(axis=1)
        return acceptable
