"""The part of a model's predictions that scores read."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


class Head(NamedTuple):
    """The last linear layer of a model."""

    weight: Float[np.ndarray, "classes width"]
    bias: Float[np.ndarray, " classes"]


@runtime_checkable
class Outputs(Protocol):
    """Outputs of one model for a set of images; `predictions.record.Predictions` is one."""

    def __len__(self) -> int: ...

    @property
    def logits(self) -> Float[np.ndarray, "n classes"]: ...

    @property
    def labels(self) -> Int[np.ndarray, " n"]: ...

    @property
    def features(self) -> Float[np.ndarray, "n width"] | None: ...

    @property
    def taps(self) -> Float[np.ndarray, "n channels"] | None: ...

    @property
    def tap_widths(self) -> tuple[int, ...]: ...

    @property
    def predicted_losses(self) -> Float[np.ndarray, " n"] | None: ...

    @property
    def head(self) -> Head | None: ...
