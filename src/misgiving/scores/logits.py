"""Scores of the logits alone.

The names in `LOGIT_SCORES` are those of the result tables. All scores are computed in float64, in
which confident softmax values do not collapse to 1.0.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import entr, log_softmax, logsumexp, softmax

from misgiving.arrays import Classes, Features, Logits, Values
from misgiving.registry import Registry

SMALLEST_NORM = 1e-12


def max_softmax(logits: Logits) -> Values:
    """Maximum softmax probability (Hendrycks & Gimpel, 2017)."""
    return np.asarray(softmax(logits.astype(np.float64), axis=1).max(axis=1))


def energy(logits: Logits) -> Values:
    """Negative free energy: the log of the sum of exponentials of the logits (Liu et al., 2020)."""
    return np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def max_logit(logits: Logits) -> Values:
    """The largest logit (Hendrycks et al., 2022)."""
    return np.asarray(logits.astype(np.float64).max(axis=1))


def negative_entropy(logits: Logits) -> Values:
    """Negated entropy of the softmax, in nats: 0 where one class has all of it."""
    return -np.asarray(entr(softmax(logits.astype(np.float64), axis=1)).sum(axis=1))


def gen(logits: Logits) -> Values:
    """Negated generalised entropy with gamma = 0.1 over all classes (Liu et al., 2023).

    Probabilities are clipped to 1e-7, so that the most confident samples tie.
    """
    p = softmax(logits.astype(np.float64), axis=1).clip(1e-7, 1 - 1e-7)
    return -np.asarray(((p * (1 - p)) ** 0.1).mean(axis=1))


def max_logit_norm(logits: Logits) -> Values:
    """Largest of the logits after centring and division by their 2-norm (Cattelan & Silva, 2023).

    The authors choose p on labelled data; here it is 2 and nothing is tuned. Equal logits give 0.
    With two classes every sample has the same score.

    >>> max_logit_norm(np.array([[3.0, 0.0, 0.0], [1.0, 1.0, 1.0]])).round(4)
    array([0.8165, 0.    ])
    """
    wide = logits.astype(np.float64)
    return np.asarray(unit_vectors(wide - wide.mean(axis=1, keepdims=True)).max(axis=1))


def cross_entropy(logits: Logits, labels: Classes) -> tuple[float, Logits]:
    """Sum of the cross-entropies of the true classes, and its derivatives by the logits.

    >>> cross_entropy(np.zeros((1, 2)), np.array([0]))
    (0.6931471805599453, array([[-0.5,  0.5]]))
    """
    log_probabilities, truth = log_softmax(logits, axis=1), (np.arange(len(labels)), labels)
    derivatives = np.exp(log_probabilities)
    derivatives[truth] -= 1
    return float(-log_probabilities[truth].sum()), derivatives


def unit_vectors(vectors: Features) -> Features:
    """Rows divided by their 2-norm; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / norms.clip(min=SMALLEST_NORM))


LOGIT_SCORES: Registry[Callable[[Logits], Values]] = Registry(
    "score of logits",
    msp=max_softmax,
    energy=energy,
    max_logit=max_logit,
    entropy=negative_entropy,
    gen=gen,
    max_logit_norm=max_logit_norm,
)
