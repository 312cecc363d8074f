"""Kinds of numpy arrays by their contents and shapes, which the tests check.

`n` counts cases (images). Sizes of one name are equal within a call; `_` is any size.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped, UInt8

Values = Float[np.ndarray, " n"]
Mask = Bool[np.ndarray, " n"]
Errors = Bool[np.ndarray, " n"] | Real[np.ndarray, " n"]
"""Wrong or not, as 1 or 0; or a loss."""
Classes = Int[np.ndarray, " n"]
"""Position of a class for each case."""
Names = Shaped[np.ndarray, " n"]
Units = Int[np.ndarray, " n"]
"""Number of the group of each case."""
Groups = Sequence[str] | Shaped[np.ndarray, " n"]
"""Group of each case, by any name or number."""
Rows = Int[np.ndarray, " _"]
"""Positions of cases."""

Logits = Float[np.ndarray, "n classes"]
Sums = Float[np.ndarray, "n answers"]
"""A value for each answer: a superclass, or a class."""
Probabilities = Float[np.ndarray, "n classes"]
Members = Float[np.ndarray, "n members classes"]
"""Log-probabilities of each class by each classifier of a mixture."""
Evidence = Float[np.ndarray, "n probes classes"]
"""Log-probabilities of each class by each probe."""
ByClass = Float[np.ndarray, " classes"]
Features = Float[np.ndarray, "n width"]
Taps = Float[np.ndarray, "n channels"]

Counts = Int[np.ndarray, " ranks"]
"""Number of cases up to each candidate threshold."""
Thresholds = Float[np.ndarray, " ranks"]

Weights = Real[np.ndarray, "*replicates n"]
"""Number of times that each case counts; the leading axes are replicates."""
Replicates = Float[np.ndarray, "*replicates"]

Picture = UInt8[np.ndarray, "height width 3"]
Square = UInt8[np.ndarray, "size size 3"]
PixelMask = Bool[np.ndarray, "height width"]
Plane = Float[np.ndarray, "height width"]
