"""Deferral targets: the error rates that a policy must meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from misgiving.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Error rates to certify.

    Attributes:
        max_error: Highest share of wrong predictions among the accepted.
        confidence: Probability, over draws of the calibration set, that the targets hold.
        class_max_miss: Largest share of a class that may be accepted as another class.
        max_ood_false_alarms: Largest share of ordinary images that may be flagged as
            out-of-distribution. Default: flag none.
        simultaneous: Apply the confidence to all targets jointly, or to each separately.
    """

    max_error: float
    confidence: float = 0.95
    class_max_miss: Mapping[str, float] = field(default_factory=dict)
    max_ood_false_alarms: float | None = None
    simultaneous: bool = True

    def __post_init__(self) -> None:
        rates = {"`max_error`": self.max_error, "`confidence`": self.confidence}
        if self.max_ood_false_alarms is not None:
            rates["`max_ood_false_alarms`"] = self.max_ood_false_alarms
        rates |= {f"`class_max_miss` of {name}": rate for name, rate in self.class_max_miss.items()}
        for name, rate in rates.items():
            if not 0 < rate < 1:
                raise UsageError(f"{name} must be between 0 and 1, got {rate}")

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse rates of classes that are not among these."""
        if unknown := [name for name in self.class_max_miss if name not in classes]:
            raise UsageError(
                f"`class_max_miss` has the unknown class {unknown[0]!r}; choose from "
                f"{', '.join(classes)}"
            )

    @property
    def level(self) -> float:
        """Probability with which each single target may be missed.

        >>> round(Targets(max_error=0.1, max_ood_false_alarms=0.05).level, 3)
        0.025
        """
        count = 1 + len(self.class_max_miss) + (self.max_ood_false_alarms is not None)
        return (1 - self.confidence) / (count if self.simultaneous else 1)
