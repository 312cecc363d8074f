"""Kinds of torch tensors by their contents and shapes, as `arrays` has them for numpy."""

from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]
"""In [0, 1]."""
Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, " batch"]
Losses = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
