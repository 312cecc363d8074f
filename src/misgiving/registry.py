"""Choices that an option names: the losses, scores, data sets and so on, and the user's own."""

import sys
from functools import wraps
from importlib import import_module
from inspect import getsource
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from misgiving.errors import Parameter, UsageError, reason_of

Choice = TypeVar("Choice")


class Registry(dict[str, Choice]):
    """Dict from name to choice whose lookup error lists the valid names.

    >>> colours = Registry("colour", red=1, blue=2)
    >>> colours["green"]
    Traceback (most recent call last):
    misgiving.errors.UsageError: unknown colour 'green'; choose from red, blue
    """

    def __init__(self, kind: str | Parameter, **choices: Choice) -> None:
        super().__init__(choices)
        self.kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise UsageError("unknown ", self.kind, f" {name!r}; choose from {', '.join(self)}")


def own_function(name: str) -> Any:
    """The user's own `module:function`, of a file in the current folder or of a package.

    Raises:
        UsageError: There is none; or, when it is called, it fails.
    """
    module, _, function = name.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        own = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"{name!r} cannot be imported ({reason_of(error)}); write MODULE:FUNCTION, of a file "
            "MODULE.py in this folder"
        ) from error

    @wraps(own)
    def call(*values: Any) -> Any:
        try:
            return own(*values)
        except Exception as error:
            raise UsageError(f"{name!r} fails: {type(error).__name__}: {error}") from error

    return call


def own_source(name: str) -> str:
    """Code of the user's own `module:function`; empty for another name."""
    return getsource(own_function(name)) if ":" in name else ""
