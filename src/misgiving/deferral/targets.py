"""Deferral targets: the error rates that a policy must meet."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from misgiving.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Error rates to certify.

    Attributes:
        max_error: Highest share of wrong predictions among the accepted.
        confidence: Probability, over draws of the calibration set, that the targets hold.
        class_max_miss: By class, the highest share of its cases that is accepted as another class.
        max_ood_false_alarms: Highest share of images like the calibration cases that is called
            out-of-distribution; None: no image is.
        simultaneous: All targets hold together with the confidence; else each by itself.
        prevalence: Shares of classes where the policy will be used; the others share the rest.
    """

    max_error: float
    confidence: float = 0.95
    class_max_miss: Mapping[str, float] = field(default_factory=dict)
    max_ood_false_alarms: float | None = None
    simultaneous: bool = True
    prevalence: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        rates = {"max_error": self.max_error, "confidence": self.confidence}
        if self.max_ood_false_alarms is not None:
            rates["max_ood_false_alarms"] = self.max_ood_false_alarms
        rates |= {f"class_max_miss of {name}": rate for name, rate in self.class_max_miss.items()}
        for name, rate in rates.items():
            if not 0 < rate < 1:
                raise UsageError(f"{name} is {rate}; it must lie between 0 and 1")
        for name, share in (self.prevalence or {}).items():
            if not 0 <= share <= 1:
                raise UsageError(f"prevalence of {name} is {share}; give a share from 0 to 1")

    @property
    def level(self) -> float:
        """Probability with which each single target may be missed.

        >>> round(Targets(max_error=0.1, max_ood_false_alarms=0.05).level, 3)
        0.025
        """
        count = 1 + len(self.class_max_miss) + (self.max_ood_false_alarms is not None)
        return (1 - self.confidence) / (count if self.simultaneous else 1)


def rates_by_class(pairs: Iterable[str], *, name: str = "class_max_miss") -> dict[str, float]:
    """Parse rates written as `CLASS=RATE`; `name` is the parameter in errors.

    >>> rates_by_class(["MEL=0.02", "BCC=0.1"])
    {'MEL': 0.02, 'BCC': 0.1}
    """
    rates: dict[str, float] = {}
    for pair in pairs:
        class_name, _, rate = pair.rpartition("=")
        if class_name in rates:
            raise UsageError(f"{name} has {class_name} twice; give one rate for each class")
        try:
            rates[class_name] = float(rate)
        except ValueError:
            class_name = ""
        if not class_name:
            raise UsageError(f"{name} {pair!r} is not CLASS=RATE; write it as MEL=0.02")
    return rates
