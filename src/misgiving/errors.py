"""Failures that are explained to the user in one line: what is wrong, where, and what helps.

Messages name parameters in backticks, as they are written in Python: `learning_rate`,
`pretrained=False`, `on_bad_image="skip"`. The command line shows its own options instead:
--learning-rate, --no-pretrained, --on-bad-image skip.
"""

from typing import NamedTuple


class ExplainedError(Exception):
    """A failure whose message names culprit and remedy; the command line prints only that."""

    exit_code = 1


class UsageError(ExplainedError, ValueError):
    """An argument or option has a value that cannot be used."""

    exit_code = 2


class DataError(ExplainedError, ValueError):
    """A file, folder or table cannot be used as it is."""


class TrainingError(ExplainedError, RuntimeError):
    """Training cannot go on."""


class StoppedError(ExplainedError):
    """The person, or the system, has stopped the command."""

    exit_code = 130


class ProcessLostError(ExplainedError):
    """Another process of a command has ended, so that this one cannot go on."""


class BadImage(NamedTuple):
    """An image that cannot be read, by its id, and why, in one line that names the file."""

    image: str
    reason: str

    def __str__(self) -> str:
        name = visible(self.image)
        return self.reason if name in self.reason else f"{name}: {self.reason}"


class BadImages(DataError):
    """Images that cannot be read; the message names the first, `images` has all of them.

    `whole` says whether these are all images of the set.
    """

    images: tuple[BadImage, ...] = ()
    whole: bool = False


def visible(text: str) -> str:
    r"""Text in which a line break, or what a terminal would obey, stands as an escape.

    >>> print(visible("a\nb"))
    a\nb
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
