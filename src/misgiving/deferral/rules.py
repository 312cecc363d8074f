"""The rule that predicts a class, and the answers that are never accepted.

The command line reads its options from here, so NumPy is imported only where it is used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from misgiving.errors import require, require_choices

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int

RuleName = Literal["most_probable", "balanced", "costs", "logits"]


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """The class that is predicted, and the answers that are never accepted.

    Attributes:
        rule: Class that is predicted: the one with the highest calibrated probability
            (most_probable), the highest probability relative to its share of the tuning set
            (balanced), the least expected cost (costs), or the largest logit (logits). Default:
            most_probable, or costs where these are given.
        costs: Cost of predicting another class for a case of this class; 1 for classes not given.
            Implies the rule costs.
        max_error_probability: Never accept an answer whose error probability is higher.
    """

    rule: RuleName = None  # type: ignore[assignment]  # replaced when it is made
    costs: Mapping[str, float] = field(default_factory=dict)
    max_error_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.rule is None:
            object.__setattr__(self, "rule", "costs" if self.costs else "most_probable")
        require_choices(self)
        go_together = (self.rule == "costs") == bool(self.costs)
        require(self, "costs", go_together, "be given with the rule costs, and with no other")
        are_positive = all(0 < cost < math.inf for cost in self.costs.values())
        require(self, "costs", are_positive, "be positive")
        limit = self.max_error_probability
        require(self, "max_error_probability", 0 < limit <= 1, "be above 0 and at most 1")

    def class_weights(
        self, classes: Sequence[str], labels: "Int[np.ndarray, ' n']"
    ) -> "Float[np.ndarray, ' classes'] | None":
        """Factor of each class's probability: the class with the largest product is predicted.

        The expected cost of predicting class j is the sum of c_k p_k over the other classes k,
        which is least where c_j p_j is largest.

        Args:
            classes: Names of the classes, in the order of the labels.
            labels: True classes of the tuning set; a class without cases counts as one case.

        Returns:
            None for the rule `logits`, which uses no probability.
        """
        import numpy as np

        if self.rule == "logits":
            return None
        if self.rule == "balanced":
            return len(labels) / np.maximum(np.bincount(labels, minlength=len(classes)), 1)
        return np.array([self.costs.get(name, 1.0) for name in classes])

    def mark_acceptable(
        self,
        probabilities: "Float[np.ndarray, 'n classes']",
        predicted: "Int[np.ndarray, ' n']",
        errors: "Float[np.ndarray, ' n']",
    ) -> "Bool[np.ndarray, ' n']":
        """Mark the answers that can be accepted: their error probability is not too high.

        Nor may another class have a higher probability, as by a second opinion, unless the rule
        weighs classes.
        """
        acceptable = errors <= self.max_error_probability
        if self.rule in ("logits", "most_probable"):
            of_predicted = probabilities[range(len(predicted)), predicted]
            acceptable &= of_predicted >= probabilities.max(axis=1)
        return acceptable
