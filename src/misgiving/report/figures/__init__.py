"""The figures of the report: records in, a matplotlib figure out; no model and no window needed."""

from misgiving.report.figures.confusion import confusion_figure
from misgiving.report.figures.curves import curve, learning_figure
from misgiving.report.figures.examples import (
    MAX_EXAMPLES,
    THUMBNAIL,
    Examples,
    Picture,
    examples_figure,
    thumbnail,
)
from misgiving.report.figures.groups import new_classes_figure, sensitivity_figure
from misgiving.report.figures.rates import rates_figure
from misgiving.report.figures.reliability import reliability_figure
from misgiving.report.figures.risk import SCORE_COLOURS, risk_figure
from misgiving.report.figures.style import COLOURS, DETECTORS, KINDS, render

__all__ = [
    "COLOURS",
    "DETECTORS",
    "KINDS",
    "MAX_EXAMPLES",
    "SCORE_COLOURS",
    "THUMBNAIL",
    "Examples",
    "Picture",
    "confusion_figure",
    "curve",
    "examples_figure",
    "learning_figure",
    "new_classes_figure",
    "rates_figure",
    "reliability_figure",
    "render",
    "risk_figure",
    "sensitivity_figure",
    "thumbnail",
]
