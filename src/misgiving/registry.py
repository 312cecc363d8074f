"""Named choices: the losses, scores, data sets and so on that an option can name."""

from typing import NoReturn, TypeVar

from misgiving.errors import UsageError

Choice = TypeVar("Choice")


class Registry(dict[str, Choice]):
    """Dict from name to choice whose lookup error lists the valid names.

    >>> colours = Registry("colour", red=1, blue=2)
    >>> colours["green"]
    Traceback (most recent call last):
    misgiving.errors.UsageError: unknown colour 'green'; choose from red, blue
    """

    def __init__(self, kind: str, **choices: Choice) -> None:
        super().__init__(choices)
        self.kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise UsageError(f"unknown {self.kind} {name!r}; choose from {', '.join(self)}")
