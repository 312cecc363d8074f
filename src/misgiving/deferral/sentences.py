"""Sentences on a policy, its certificate and its cases, and the numbers in them."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from misgiving.deferral.certificate import MIN_BATCH, MIN_TUNING_CASES, MOST_LIMITS, Certificate
from misgiving.deferral.certify import find_remedies
from misgiving.deferral.guarantees import GUARANTEES
from misgiving.errors import Parameter, visible
from misgiving.groups import UNITS, unit_of

MOST_VALUES = 12  # that one line names


def count(number: int, things: str) -> str:
    """A number of things, in the singular where there is one.

    >>> count(2, "sources"), count(1, "sources")
    ('2 sources', '1 source')
    """
    return f"{number} {things.removesuffix('s') if number == 1 else things}"


@cache
def environment(*packages: str, html: bool = False) -> Environment:
    """The templates of this package and of others; in HTML all that they insert is escaped."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "misgiving.deferral")]),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"count": count, "inf": math.inf, "units": UNITS, "unit_of": unit_of}
    templates.globals |= {"min_batch": MIN_BATCH, "min_tuning_cases": MIN_TUNING_CASES}
    templates.globals |= {"most_limits": MOST_LIMITS, "most_values": MOST_VALUES}
    templates.globals |= {"parameter": Parameter, "guarantees": [*GUARANTEES]}
    templates.filters |= {
        "visible": visible,
        "percent": percent,
        "exact_percent": lambda share: f"{100 * share:.6g} %",
        "three_digits": three_digits,
        "one_line": lambda text: " ".join(text.split()),
    }
    return templates


def lines(
    template: str,
    macro: str,
    *values: object,
    templates: Environment | None = None,
    **variables: object,
) -> list[str]:
    """The lines of plain text of a template's macro, without empty ones."""
    module = (templates or environment()).get_template(template).make_module(variables)
    return [line for line in getattr(module, macro)(*values).splitlines() if line]


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


def sentences_in_brief(certificate: Certificate) -> list[str]:
    """A few sentences on what is certified, or why nothing is."""
    return lines("policy.txt", "in_brief", certificate, find_remedies(certificate))


def certificate_sentences(
    deferral: Any, *, brief: bool = False, parameter: Callable[..., object] = Parameter
) -> list[str]:
    """Sentences on targets, observations and limits of the guarantee; a few if `brief`.

    `parameter` makes the words for a parameter's name and value.
    """
    macro, remedies = "brief" if brief else "certified", find_remedies(deferral.certificate_)
    return lines("policy.txt", macro, deferral, remedies, parameter=parameter)
