"""Rules that name the class of an image, chosen before a policy is calibrated.

The command line reads its options from here, so NumPy is imported only where it is used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from misgiving.errors import UsageError, require, require_choices

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int

RuleName = Literal["most_probable", "balanced", "costs", "logits"]


@dataclass(frozen=True, kw_only=True)
class DecisionRule:
    """The class that is named, and the answers that are never accepted.

    Attributes:
        rule: Class that is named: the one with the highest calibrated probability (most_probable),
            the highest probability relative to its share of the tuning set (balanced), the least
            expected cost (costs), or the largest logit (logits). Default: most_probable, or costs
            where these are given.
        costs: Cost of naming another class for a case of this class; 1 for classes not given.
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
        if self.rule == "costs" and not self.costs:
            raise UsageError(
                "`rule` 'costs' needs `costs`: give the cost of an error for one class or more"
            )
        if self.costs and self.rule != "costs":
            raise UsageError(
                f"`costs` are for `rule` 'costs', got {self.rule!r}; leave out one of them"
            )
        for name, cost in self.costs.items():
            if not 0 < cost < math.inf:
                raise UsageError(f"`costs` of {name} must be positive, got {cost}")
        limit = self.max_error_probability
        require(self, "max_error_probability", 0 < limit <= 1, "be above 0 and at most 1")

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse costs of classes that are not among these."""
        if unknown := [name for name in self.costs if name not in classes]:
            raise UsageError(
                f"`costs` has the unknown class {unknown[0]!r}; choose from {', '.join(classes)}"
            )

    def class_weights(
        self, classes: Sequence[str], labels: "Int[np.ndarray, ' n']"
    ) -> "Float[np.ndarray, ' classes'] | None":
        """Factor of each class's probability: the class with the largest product is named.

        The expected cost of naming class j is the sum of c_k p_k over the other classes k, which is
        least where c_j p_j is largest.

        Args:
            classes: Names of the classes, in the order of the labels.
            labels: True classes of the tuning set; a class without cases counts as one case.

        Returns:
            None for the rule `logits`, which uses no probability.
        """
        import numpy as np

        self.check_classes(classes)
        if self.rule == "logits":
            return None
        if self.rule == "balanced":
            return len(labels) / np.maximum(np.bincount(labels, minlength=len(classes)), 1)
        return np.array([self.costs.get(name, 1.0) for name in classes])

    def acceptable(
        self,
        errors: "Float[np.ndarray, ' n']",
        probabilities: "Float[np.ndarray, 'n classes']",
        predicted: "Int[np.ndarray, ' n']",
    ) -> "Bool[np.ndarray, ' n']":
        """Mark the answers that can be accepted: their error probability is not too high.

        Nor may another class have a higher probability, unless the rule weighs classes.
        """
        import numpy as np

        of_predicted = np.take_along_axis(probabilities, predicted[:, None], axis=1)[:, 0]
        unsurpassed = probabilities.max(axis=1) <= of_predicted
        if self.rule in ("balanced", "costs"):
            unsurpassed[:] = True
        return np.asarray((errors <= self.max_error_probability) & unsurpassed)
