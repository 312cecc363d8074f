"""Failures as the user sees them: one line that names the options of the command."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from misgiving.cli.progress import process_number, say
from misgiving.errors import BadImage, BadImagesError, ExplainedError, visible

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


class Failure(NamedTuple):
    """A failure as it is shown: one line, the exit code, and the images to list below it."""

    message: str
    code: int = 1
    images: tuple[BadImage, ...] = ()


def failure_of(error: Exception) -> Failure | None:
    """Explain an error to the user; None for one that is a defect of the program."""
    if isinstance(error, ExplainedError):
        images = error.images if isinstance(error, BadImagesError) else ()
        return Failure(str(error), error.exit_code, images if len(images) > 1 else ())
    if hasattr(error, "format_message"):  # typer's own: wrong usage
        return Failure(_usage(error), 2)
    if isinstance(error, ModuleNotFoundError):
        return _missing_extra(error)
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        return Failure(f"{file}{reason}; check the path, free space and permissions")
    return _out_of_memory(error)


def _usage(error: Any) -> str:
    """Describe wrong usage and where to read more; empty if the help was shown already."""
    message: str = error.format_message().replace("Value error, ", "").rstrip(".")
    if message and (context := getattr(error, "ctx", None)):
        message += f" (see {context.command_path} --help)"
    return message[:1].lower() + message[1:]


def _missing_extra(error: ModuleNotFoundError) -> Failure | None:
    extra = EXTRAS.get((error.name or "").split(".")[0])
    if extra is None:
        return None
    return Failure(f"{error.name} is not installed; run: pip install 'misgiving[{extra}]'")


def _out_of_memory(error: Exception) -> Failure | None:
    """Recognise a lack of memory, which torch reports in several ways."""
    text = str(error).lower()
    reported = isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    if not reported and not isinstance(error, MemoryError):
        return None
    where = "the GPU" if "cuda" in text or "mps" in text else "the machine"
    return Failure(f"{where} is out of memory; {SMALLER}")


def show_failure(failure: Failure) -> None:
    """Print a failure on standard error."""
    if failure.message:
        line = visible(" ".join(failure.message.split()))
        sys.stderr.write(f"process {number}: " if (number := process_number()) else "")
        sys.stderr.write(f"error: {line}\n")
    list_bad_images(failure.images)


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
        one.name or "": [*one.opts, *one.secondary_opts]
        for one in context.command.params
        if one.param_type_name == "option"
    }


def with_options(message: str, options: Mapping[str, Sequence[str]]) -> str:
    """Replace parameters in backticks by the options that set them, where there are such options.

    >>> options = {"device": ["--device"], "pretrained": ["--pretrained", "--no-pretrained"]}
    >>> with_options('try `device="cpu"`, `pretrained=False` or another `backbone`', options)
    'try --device cpu, --no-pretrained or another `backbone`'
    """

    def shown(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in options:
            return found[0]
        flag, *negative = options[name]
        if value in (None, "True", "False"):
            return negative[0] if value == "False" and negative else flag
        return f"{flag} {value.strip(QUOTES)}"

    return PARAMETER.sub(shown, message)


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
