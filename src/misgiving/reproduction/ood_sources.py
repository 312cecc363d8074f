"""OOD sets that are read from somewhere: how they are named, and whose place they take."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from misgiving.data.ood_sets.ood_set import OOD_SETS
from misgiving.errors import UsageError

PAPER_SETS = ("nct", "b_box", "b_box_70", "b_box_70_image", "imagenet", "clin_skin", "derm_skin")
"""The rows of the paper's Table 1 in its order; `b_box_70_image` is its B-Box-70 read otherwise."""

# names of other rows of the results
RESERVED = ("train", "validation", "tune", "calibrate", "test", "unseen_classes", "policy_test")

DERIVED = tuple(name for name in PAPER_SETS if name in OOD_SETS)


@dataclass(frozen=True, kw_only=True)
class OodPlace:
    """An OOD set that is read from somewhere.

    Attributes:
        name: Says what is in it; the paper's names are for the paper's sets.
        place: A folder of images, data as in `misgiving train DATA`, or `scikit-image`.
        stands_for: The set of the paper that this one stands in for; empty for none.
        about: What is in it and from how many sources, for the report.
    """

    name: str
    place: str
    stands_for: str = ""
    about: str = ""

    @property
    def row(self) -> str:
        """The row of the paper's Table 1 beside which it is shown; empty for a set of one's own."""
        return self.stands_for or self.name


def ood_places(named: Sequence[str], about: Sequence[str] = ()) -> tuple[OodPlace, ...]:
    """OOD sets from `NAME=PLACE` or `STANDS_FOR:NAME=PLACE`, with descriptions `NAME=TEXT`.

    >>> ood_places(["nct:histology=tiles"], ["histology=two sources"])[0].stands_for
    'nct'
    """
    texts = dict(_name_and_value("about", text) for text in about)
    places: list[OodPlace] = []
    for text in named:
        names, place = _name_and_value("ood", text)
        stands_for, _, name = names.rpartition(":")
        if not re.fullmatch(r"(?!unseen-)[A-Za-z0-9][\w.-]*", name) or name in RESERVED:
            raise UsageError(f"`ood` {text}: {name!r} cannot be the name of a set; choose another")
        if stands_for and stands_for not in PAPER_SETS:
            known = ", ".join(PAPER_SETS)
            raise UsageError(f"`ood` {text}: {stands_for!r} is no set of the paper's: {known}")
        _refuse_clash(text, name, stands_for, place, {known.name for known in places})
        about_it = texts.pop(name, "")
        places.append(OodPlace(name=name, place=place, stands_for=stands_for, about=about_it))
    for name in texts:
        raise UsageError(f"`about` {name}=...: there is no `ood` set of this name")
    return tuple(places)


def _refuse_clash(
    text: str, name: str, stands_for: str, place: str, taken: Collection[str]
) -> None:
    if name in taken:
        raise UsageError(f"`ood` {text}: {name!r} is named twice; choose another name")
    if name in DERIVED:
        raise UsageError(
            f"`ood` {text}: {name} is derived from held-out images; give its stand-in another "
            f'name: `ood="{name}:NAME={place}"`'
        )
    if place == "scikit-image" and name in PAPER_SETS:
        raise UsageError(
            f"`ood` {text}: these pictures are not the paper's; name them for what they are: "
            f'`ood="{stands_for or name}:photographs={place}"`'
        )


def _name_and_value(parameter: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"`{parameter}` must be written NAME=..., got {text!r}")
    return name, value
