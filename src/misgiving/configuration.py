"""Configuration dataclasses whose fields are command-line options."""

import os
from collections.abc import Callable
from dataclasses import MISSING, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from misgiving.errors import UsageError


def option(
    default: Any = MISSING,
    text: str = "",
    *,
    default_factory: Callable[[], Any] | Any = MISSING,
    panel: str | None = None,
    metavar: str | None = None,
    flag: str | None = None,
) -> Any:
    """Declare a dataclass field that commands offer as an option.

    Args:
        default: Value of the field and of the option; left out for a required option.
        text: Documentation of the field and help text of the option.
        default_factory: Makes the value where it depends on the machine.
        panel: Heading in the help under which the option is listed.
        metavar: Placeholder of the value in the help.
        flag: Flag where it is not the field's name with hyphens.
    """
    metadata = {"text": text, "panel": panel, "metavar": metavar, "flag": flag}
    return field(default=default, default_factory=default_factory, metadata=metadata)


def without_none(annotation: Any) -> Any:
    """The type of the values other than None.

    >>> without_none(int | None)
    <class 'int'>
    """
    others = [part for part in get_args(annotation) if part is not NoneType]
    return others[0] if NoneType in get_args(annotation) else annotation


def require(config: Any, name: str, holds: bool, rule: str) -> None:
    """Refuse the value of a field unless it satisfies a rule.

    Raises:
        UsageError: It does not.
    """
    if not holds:
        raise UsageError(f"`{name}` must {rule}, got {getattr(config, name)!r}")


def require_choices(config: Any) -> None:
    """Refuse values that are not among the choices of their fields, which are typed as `Literal`.

    Raises:
        UsageError: There is such a value.
    """
    for one in fields(config):
        kind = without_none(one.type)
        if get_origin(kind) is Literal:
            value, choices = getattr(config, one.name), get_args(kind)
            allowed = value in choices or (value is None and kind is not one.type)
            require(config, one.name, allowed, f"be one of {', '.join(choices)}")


def default_cache() -> Path:
    """Folder for prepared images: `misgiving` in XDG_CACHE_HOME, or else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "misgiving"
