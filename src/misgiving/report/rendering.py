"""The templates of pages and sentences, and the names and numbers that they show."""

from collections.abc import Collection
from functools import cache
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from jinja2 import Environment

from misgiving.deferral import sentences

DETECTOR_TITLES = {
    "odin": "ODIN",
    "msp": "MSP",
    "entropy": "entropy",
    "energy": "energy",
    "gen": "GEN",
    "max_logit": "max logit",
    "max_logit_norm": "max logit, norm",
    "predicted_loss": "predicted loss",
    "calibrated": "calibrated",
    "error_estimator": "error estimator",
    "second_opinion": "second opinion",
    "mahalanobis": "Mahalanobis",
    "mahalanobis++": "Mahalanobis++",
    "knn": "kNN",
    "knn_taps": "kNN of taps",
    "knn_layers": "kNN of layers",
    "vim": "ViM",
    "acceptance_score": "acceptance score",
}


def detector_name(detector: str) -> str:
    """A detector or a score in words.

    >>> detector_name("msp"), detector_name("mine:score")
    ('MSP', 'mine:score')
    """
    return DETECTOR_TITLES.get(detector, detector)


class Scale(NamedTuple):
    """Unit and precision of a metric's values as text.

    >>> Scale(100.0, 1, " points").number(0.25, sign="+"), Scale(1.0, 2, "").number(-0.001)
    ('+25.0', '0.00')
    """

    factor: float
    digits: int
    unit: str

    def number(self, value: float, *, sign: str = "") -> str:
        """The value without its unit; a value that rounds to zero has no minus sign.

        >>> POINTS.number(0.0003), POINTS.number(0.0003, sign="+")
        ('<0.1', '+0.0')
        """
        rounded = round(self.factor * value, self.digits) + 0.0
        if value > 0 == rounded and not sign:
            return f"<{10**-self.digits:.{self.digits}f}"
        return f"{rounded:{sign}.{self.digits}f}".replace("-", MINUS)

    def range(self, values: Collection[float]) -> str:
        """The lowest and the highest value; one number where they are written alike."""
        ends = [self.number(end) for end in (min(values), max(values))]
        return ends[0] if ends[0] == ends[1] else " to ".join(ends)


MINUS = "\N{MINUS SIGN}"
POINTS, PLAIN = Scale(100.0, 1, " points"), Scale(1.0, 3, "")


@cache
def environment(*packages: str, html: bool = True) -> Environment:
    """The templates of this package and of others; in HTML all that they insert is escaped."""
    templates = sentences.environment(*packages, "misgiving.report", html=html)
    templates.filters |= {
        "detector_name": detector_name,
        "mean": fmean,
        "median": np.median,
        "plain": PLAIN.number,
        "points": POINTS.number,
        "stdev": stdev,
    }
    templates.tests["nan"] = lambda value: value != value
    return templates


def lines(template: str, macro: str, *values: object, **variables: object) -> list[str]:
    """The lines of plain text of a macro of a report, without empty ones."""
    templates = environment(html=False)
    return sentences.lines(template, macro, *values, templates=templates, **variables)
