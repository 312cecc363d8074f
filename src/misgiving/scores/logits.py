"""Confidences of logits alone; the names in `LOGIT_SCORES` are those of the result tables.

All are computed in float64: at T = 1000, confidences differ in the fourth digit.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from misgiving.registry import Registry

Logits = Float[Tensor, "batch classes"]
Scores = Float[Tensor, " batch"]


def max_softmax(logits: Logits) -> Scores:
    """Maximum softmax probability (Hendrycks & Gimpel, 2017)."""
    return confidence(logits, 1.0)


def confidence(logits: Logits, temperature: float) -> Scores:
    """Maximum of the temperature-scaled softmax (paper, Eq. 3)."""
    return (wide(logits) / temperature).softmax(dim=1).amax(dim=1)


def energy(logits: Logits) -> Scores:
    """Negative free energy: the log of the sum of exponentials of the logits (Liu et al., 2020)."""
    return wide(logits).logsumexp(dim=1)


def max_logit(logits: Logits) -> Scores:
    """The largest logit (Hendrycks et al., 2022)."""
    return wide(logits).amax(dim=1)


def negative_entropy(logits: Logits) -> Scores:
    """Entropy of the softmax, in nats, with its sign turned: 0 where one class has it all."""
    entropy: Scores = torch.special.entr(wide(logits).softmax(dim=1)).sum(dim=1)
    return -entropy


def gen(logits: Logits) -> Scores:
    """Generalised entropy with gamma = 0.1 over all classes (Liu et al., 2023), its sign turned.

    Probabilities are clamped to 1e-7, so that the most confident samples tie.
    """
    from pytorch_ood.detector import GEN  # imports torchvision: two seconds

    scores: Scores = -GEN.score(wide(logits))
    return scores


def max_logit_norm(logits: Logits) -> Scores:
    """Largest of the logits after centring and division by their 2-norm (Cattelan & Silva, 2023).

    The authors choose p on labelled data; here it is 2 and nothing is tuned. Equal logits give 0.
    With two classes it is the same for all samples and tells nothing.

    >>> max_logit_norm(torch.tensor([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    tensor([0.8165, 0.0000], dtype=torch.float64)
    """
    centred = wide(logits) - wide(logits).mean(dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return (centred / norms.clamp(min=1e-12)).amax(dim=1)


def wide(logits: Logits) -> Logits:
    """Float64, in which confident softmax values do not collapse to 1.0 (else float32)."""
    return logits.float() if logits.device.type == "mps" else logits.double()


LOGIT_SCORES: Registry[Callable[[Logits], Scores]] = Registry(
    "score of logits",
    msp=max_softmax,
    energy=energy,
    max_logit=max_logit,
    entropy=negative_entropy,
    gen=gen,
    max_logit_norm=max_logit_norm,
)
