"""Hypothesis strategies: values with many ties, and strictly increasing maps of them."""

import numpy as np
from hypothesis import strategies as st

DISTINCT = 8


def ranks(size=12, *, least=1, distinct=DISTINCT):
    """Up to `size` whole numbers below `distinct`, so that many are tied."""
    drawn = st.lists(st.integers(0, distinct - 1), min_size=least, max_size=size)
    return drawn.map(lambda values: np.array(values, dtype=np.int64))


def heights(count=DISTINCT, *, largest=None):
    """`count` strictly increasing floats of any size: `heights[ranks]` keeps order and ties."""
    lowest = None if largest is None else -largest
    finite = st.floats(lowest, largest, allow_nan=False, allow_infinity=False)
    drawn = st.lists(finite, min_size=count, max_size=count, unique=True)
    return drawn.map(lambda values: np.array(sorted(values)))


@st.composite
def columns(draw, *distinct, size=12, least=1):
    """Equally long arrays of whole numbers, one for each bound; they start at 0."""
    count = draw(st.integers(least, size))
    return tuple(
        np.array(draw(st.lists(st.integers(0, below - 1), min_size=count, max_size=count)))
        for below in distinct
    )


def orders(count):
    """Every permutation of `count` positions."""
    return st.permutations(range(count)).map(lambda order: np.array(order, dtype=np.intp))


def generators():
    """numpy random generators of any seed, for arrays too large to draw value by value."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)
