"""Failures that are explained to the user in one line: what is wrong, where, and what helps.

A message is made of text and of the parameters that it names, so that the command line can show its
own options instead.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin

LONGEST_REASON = 200  # characters of a message that another library wrote


class Parameter(NamedTuple):
    """A parameter that a message names, perhaps with a value, as they are written in Python.

    >>> print(Parameter("epochs"), Parameter("pretrained", False), Parameter("device", "cpu"))
    `epochs` `pretrained=False` `device="cpu"`
    """

    name: str
    value: object = None

    def __str__(self) -> str:
        if self.value is None:
            return f"`{self.name}`"
        value = f'"{self.value}"' if isinstance(self.value, str) else self.value
        return f"`{self.name}={value}`"


class ExplainedError(Exception):
    """A failure whose message names the cause and the remedy; the command line prints only that.

    >>> error = UsageError(Parameter("margin"), " must not be negative, got -1")
    >>> str(error), [parameter.name for parameter in error.parameters]
    ('`margin` must not be negative, got -1', ['margin'])
    """

    exit_code = 1

    @property
    def parameters(self) -> list[Parameter]:
        """Parameters that the message names."""
        return [part for part in self.args if isinstance(part, Parameter)]

    def __str__(self) -> str:
        return "".join(map(str, self.args))


class UsageError(ExplainedError, ValueError):
    """An argument has a value that cannot be used."""

    exit_code = 2


class DataError(ExplainedError, ValueError):
    """A file, folder or table cannot be used as it is."""


class TrainingError(ExplainedError, RuntimeError):
    """Training cannot continue, or a process of a command without the others."""


class StoppedError(ExplainedError):
    """The user or the system has stopped the command."""

    exit_code = 130


def visible(text: str) -> str:
    r"""Escape line breaks and control characters, which a terminal would obey.

    >>> print(visible("a\nb"))
    a\nb
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def reason_of(failure: BaseException) -> str:
    r"""The reason of a failure in one line: the system's, or its message, or else its kind.

    >>> reason_of(ValueError("no header\nin a.npy")), reason_of(EOFError())
    ('no header in a.npy', 'EOFError')
    >>> reason_of(OSError(28, "No space left on device", "a.npy"))
    'No space left on device'
    """
    text = " ".join(str(getattr(failure, "strerror", None) or failure).split())
    shown = text if isinstance(failure, ExplainedError) else text[:LONGEST_REASON]
    return shown or type(failure).__name__


@contextmanager
def explain_damage(path: Path, *, remedy: str | tuple[str | Parameter, ...]) -> Iterator[None]:
    """Turn any failure to read a file into a DataError that names it and ends in the remedy."""
    try:
        yield
    except (DataError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:  # readers raise almost anything on damaged or forged files
        parts = (remedy,) if isinstance(remedy, str) else remedy
        raise DataError(f"{path}: missing or damaged ({reason_of(error)}); ", *parts) from error


def separated(parts: Iterable[str | Parameter], separator: str) -> list[str | Parameter]:
    """Parts of a message with text between each two.

    >>> "".join(map(str, separated([Parameter("mean"), Parameter("std")], " and ")))
    '`mean` and `std`'
    """
    return [part for each in parts for part in (separator, each)][1:]


def require(config: Any, name: str, holds: bool, *rule: str | Parameter) -> None:
    """Check that the value of a field satisfies a rule.

    Raises:
        UsageError: It does not.
    """
    if not holds:
        raise UsageError(Parameter(name), " must ", *rule, f", got {getattr(config, name)!r}")


def require_choices(config: Any) -> None:
    """Check that fields of a dataclass that are typed as `Literal` have one of these values.

    Raises:
        UsageError: One has another value.
    """
    for field in fields(config):
        kind = without_none(field.type)
        if get_origin(kind) is Literal:
            value, choices = getattr(config, field.name), get_args(kind)
            allowed = value in choices or (value is None and kind is not field.type)
            require(config, field.name, allowed, f"be one of {', '.join(map(str, choices))}")


def without_none(annotation: Any) -> Any:
    """The type of the values other than None.

    >>> without_none(int | None)
    <class 'int'>
    """
    others = [part for part in get_args(annotation) if part is not NoneType]
    return others[0] if NoneType in get_args(annotation) else annotation
