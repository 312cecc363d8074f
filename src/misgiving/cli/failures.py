"""Failures as the user sees them: one line that names the options of the command."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from misgiving.cli.progress import process_number, say
from misgiving.errors import BadImage, ExplainedError, visible

EXTRAS = {
    module: extra
    for extra, modules in {
        "train": "torch timm lightning_fabric onnx onnxscript skimage transformers",
        "serve": "onnxruntime fastapi httptools prometheus_client python_multipart sqlalchemy "
        "uvicorn",
        "postgresql": "psycopg",
        "ray": "ray",
    }.items()
    for module in modules.split()
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "unable to allocate")
SMALLER = (
    "choose a smaller --batch-size or --image-size where the command has them, or --device cpu; or "
    "wait until other programs release memory"
)
QUOTES = "'\""
PARAMETER = re.compile(r"`(\w+)(?:=([^`]+))?`")
MAX_LISTED = 50  # bad images on the screen
SET_BY_TRAIN = {"split": ["train --split"], "keep": ["train --keep"]}
"""Options of `train` that messages of other commands refer to, by parameter."""


def explanation(error: Exception) -> str | None:
    """Message on an error for the user; None for one that is a defect of the program."""
    if isinstance(error, ExplainedError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own: wrong usage
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRAS.get((error.name or "").split(".")[0])
        return extra and f"{error.name} is not installed; run: pip install 'misgiving[{extra}]'"
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror or error}; check the path, free space and permissions"
    text = str(error).lower()
    reported = isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    if reported or isinstance(error, MemoryError):
        where = "the GPU" if "cuda" in text or "mps" in text else "the machine"
        return f"{where} is out of memory; {SMALLER}"
    return None


def _usage(error: Any) -> str:
    """Describe wrong usage and where to read more; empty if the help was shown already."""
    message: str = error.format_message().replace("Value error, ", "").rstrip(".")
    if message and (context := getattr(error, "ctx", None)):
        message += f" (see {context.command_path} --help)"
    return message[:1].lower() + message[1:]


def show_failure(message: str, images: Sequence[BadImage] = ()) -> None:
    """Print one line on standard error, and below it the images if there are several."""
    if message:
        sys.stderr.write(f"process {number}: " if (number := process_number()) else "")
        sys.stderr.write(f"error: {visible(' '.join(message.split()))}\n")
    if len(images) > 1:
        list_bad_images(images)


@contextmanager
def naming_options(context: Any) -> Iterator[None]:
    """Let explained failures name the options of a command instead of parameters of the library."""
    try:
        yield
    except ExplainedError as error:
        error.args = (with_options(str(error), options_of(context)),)
        raise


def options_of(context: Any) -> dict[str, list[str]]:
    """The flags of a command's options by parameter, and those of `train` that concern it."""
    return SET_BY_TRAIN | {
        option.name or "": [*option.opts, *option.secondary_opts]
        for option in context.command.params
        if option.param_type_name == "option"
    }


def with_options(message: str, options: Mapping[str, Sequence[str]]) -> str:
    """Replace parameters in backticks by the options that set them, where there are such options.

    >>> options = {"device": ["--device"], "pretrained": ["--pretrained", "--no-pretrained"]}
    >>> with_options('try `device="cpu"`, `pretrained=False` or another `backbone`', options)
    'try --device cpu, --no-pretrained or another `backbone`'
    """

    def replaced(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in options:
            return match[0]
        flag, *negative = options[name]
        if value in (None, "True", "False"):
            return negative[0] if value == "False" and negative else flag
        return f"{flag} {value.strip(QUOTES)}"

    return PARAMETER.sub(replaced, message)


def say_skipped(bad: Sequence[BadImage]) -> None:
    """Report the images that were left out, if any."""
    if bad:
        noun = "image" if len(bad) == 1 else "images"
        say(f"left out: {len(bad)} {noun} that cannot be read")
        list_bad_images(bad)


def list_bad_images(bad: Sequence[BadImage]) -> None:
    """Print one line for each image, up to a number that fits the screen."""
    for image in bad[:MAX_LISTED]:
        sys.stderr.write(f"  {image}\n")
    if len(bad) > MAX_LISTED:
        sys.stderr.write(f"  and {len(bad) - MAX_LISTED} more; `misgiving data check` lists all\n")
