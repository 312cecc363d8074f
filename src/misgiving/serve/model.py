"""What the service needs of a model: `misgiving.bundle.Bundle` has it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from misgiving.manifests import sha256_of_json

Squares = UInt8[np.ndarray, "n size size 3"]


@runtime_checkable
class Policy(Protocol):
    """A calibrated policy."""

    def summary(self) -> list[str]:
        """The policy in plain words."""

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON values."""


@runtime_checkable
class Answer(Protocol):
    """What is said of one image; `misgiving.bundle.Answer` says what each value means."""

    @property
    def predicted_class(self) -> str: ...
    @property
    def probabilities(self) -> Sequence[float]: ...
    @property
    def probability(self) -> float: ...
    @property
    def error_probability(self) -> float | None: ...
    @property
    def expected_loss(self) -> float | None: ...
    @property
    def predicted_loss(self) -> float | None: ...
    @property
    def ood_p_value(self) -> float | None: ...
    @property
    def decision(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def score(self) -> float | None: ...
    @property
    def ood_score(self) -> float | None: ...


@runtime_checkable
class Model(Protocol):
    """Answers images; is used by several threads at once."""

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def policy(self) -> Policy | None: ...
    @property
    def card(self) -> Mapping[str, Any]: ...
    @property
    def fingerprint(self) -> str: ...

    def square(self, data: bytes, name: str) -> UInt8[np.ndarray, "size size 3"]:
        """The image as the model sees it; raises DataError where it cannot be read."""

    def answer_squares(self, squares: Squares) -> Sequence[Answer]:
        """One answer for each image."""


def policy_fingerprint(policy: Policy | None) -> str | None:
    """SHA-256 of all that the policy says; None where there is none."""
    if policy is None:
        return None
    return sha256_of_json(policy.to_dict())
