"""The templates of pages and sentences, and the names and numbers that they show."""

import math
from collections.abc import Callable, Collection
from functools import cache
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from misgiving.deferral.annotate import MOST_LIMITS
from misgiving.deferral.certificate import MIN_BATCH, MIN_TUNING_CASES
from misgiving.deferral.certify import find_remedies
from misgiving.deferral.deferral import Deferral
from misgiving.deferral.guarantees import GUARANTEES
from misgiving.errors import Parameter, visible
from misgiving.groups import UNITS, unit_of

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
    "relative_mahalanobis": "relative Mahalanobis",
    "residual_mahalanobis": "residual Mahalanobis",
    "knn": "kNN",
    "knn_taps": "kNN of taps",
    "knn_layers": "kNN of layers",
    "vim": "ViM",
    "nnguide": "NNGuide",
    "nci": "NCI",
    "fdbd": "fDBD",
    "kl_matching": "KL matching",
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


MOST_VALUES = 12  # that one line names
MINUS = "\N{MINUS SIGN}"
POINTS, PLAIN = Scale(100.0, 1, " points"), Scale(1.0, 3, "")


def count(number: int, things: str) -> str:
    """A number of things, in the singular where there is one.

    >>> count(2, "sources"), count(1, "sources")
    ('2 sources', '1 source')
    """
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


@cache
def environment(*packages: str, html: bool = True) -> Environment:
    """The templates of this package and of others; in HTML all that they insert is escaped."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "misgiving.report")]),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"count": count, "inf": math.inf, "units": UNITS, "unit_of": unit_of}
    templates.globals |= {"guarantees": [*GUARANTEES], "min_batch": MIN_BATCH}
    templates.globals["min_tuning_cases"] = MIN_TUNING_CASES
    templates.globals["most_limits"] = MOST_LIMITS
    templates.globals["most_values"] = MOST_VALUES
    templates.globals["parameter"] = Parameter
    templates.filters |= {
        "detector_name": detector_name,
        "mean": fmean,
        "median": np.median,
        "plain": PLAIN.number,
        "points": POINTS.number,
        "stdev": stdev,
        "visible": visible,
        "percent": percent,
        "exact_percent": lambda share: f"{100 * share:.6g} %",
        "three_digits": three_digits,
        "one_line": lambda text: " ".join(text.split()),
    }
    templates.tests["nan"] = lambda value: value != value
    return templates


def lines(template: str, macro: str, *values: object, **variables: object) -> list[str]:
    """The lines of plain text of a template's macro, without empty ones."""
    words = getattr(environment(html=False).get_template(template).make_module(variables), macro)
    return [line for line in words(*values).splitlines() if line]


def percent(share: float, digits: int = 1) -> str:
    """Percentage with digits after the point; only a share of 0 or 1 is 0 % or 100 %.

    >>> percent(0.8125), percent(1.0), percent(0.9999), percent(0.0001)
    ('81.2 %', '100 %', 'above 99.9 %', 'below 0.1 %')
    >>> percent(0.8125, 0), percent(0.996, 0), percent(0.004, 0)
    ('81 %', 'above 99 %', 'below 1 %')
    """
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    text, least = f"{100 * share:.{digits}f}", 10.0**-digits
    if float(text) == 0:
        return f"below {least:.{digits}f} %"
    return f"above {100 - least:.{digits}f} %" if float(text) == 100 else f"{text} %"


def three_digits(share: float, *, up: bool = False) -> str:
    """Percentage with three digits; rounded up where it is a bound; only 1 gives 100 %.

    >>> three_digits(0.0512), three_digits(0.05), three_digits(0.22061, up=True)
    ('5.12 %', '5 %', '22.1 %')
    >>> three_digits(0.9999)
    '99.99 %'
    """
    percent = math.ceil(share * 1000 - 1e-9) / 10 if up else share * 100
    digits = next(d for d in range(3, 17) if share >= 1 or float(f"{percent:.{d}g}") < 100 or up)
    return f"{percent:.{digits}g} %"


def certificate_sentences(
    deferral: Deferral, *, brief: bool = False, parameter: Callable[..., object] = Parameter
) -> list[str]:
    """Sentences on targets, observations and limits of the guarantee; a few if `brief`.

    `parameter` makes the words for a parameter's name and value.
    """
    macro, remedies = "brief" if brief else "certified", find_remedies(deferral.certificate_)
    return lines("policy.txt", macro, deferral, remedies, parameter=parameter)
