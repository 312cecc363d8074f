"""Targets of a policy: the error rates that it must meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from misgiving.errors import Parameter, UsageError, require

GuaranteeName = Literal["confident", "average"]
"""Guarantees that the command line can name; see `guarantees`."""

SHARE_OF_ERROR = 0.15  # of the level, where there are other targets; these have few cases


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
        class_max_miss: Largest share of a class that may be accepted as another class.
        max_silent_error: Largest share of all images that may be accepted with a wrong prediction;
            holds for single images under both guarantees.
        max_ood_false_alarms: Largest share of ordinary images that may be flagged as
            out-of-distribution, with a confidence of its own; off: flag none.
        simultaneous: Apply the confidence to all targets of errors jointly, or to each separately.
    """

    max_error: float | None = None
    confidence: float = 0.95
    class_max_miss: Mapping[str, float] = field(default_factory=dict)
    max_silent_error: float | None = None
    max_ood_false_alarms: float | None = 0.05
    simultaneous: bool = True

    def __post_init__(self) -> None:
        rates = ("max_error", "confidence", "max_silent_error", "max_ood_false_alarms")
        for name in rates:
            rate = getattr(self, name)
            require(self, name, rate is None or 0 < rate < 1, "be between 0 and 1")
        are_rates = all(0 < rate < 1 for rate in self.class_max_miss.values())
        require(self, "class_max_miss", are_rates, "be between 0 and 1")
        has_target = self.max_error is not None or self.max_silent_error is not None
        require(self, "max_error", has_target, "be given, or ", Parameter("max_silent_error"))

    @property
    def parts(self) -> int:
        """Number of parts of the errors that the average guarantee of `max_error` counts apart."""
        return 1 + len(self.class_max_miss)

    @property
    def level(self) -> float:
        """Probability that the targets are missed; also that the OOD limit is too high."""
        return 1 - self.confidence

    @property
    def level_of_error(self) -> float:
        """Probability that `max_error` is missed."""
        has_others = bool(self.class_max_miss) or self.max_silent_error is not None
        return self.level * (SHARE_OF_ERROR if self.simultaneous and has_others else 1)

    @property
    def level_of_misses(self) -> float:
        """Probability that any target of classes or silent errors is missed."""
        shared = self.simultaneous and self.max_error is not None
        return self.level * (1 - SHARE_OF_ERROR if shared else 1)
