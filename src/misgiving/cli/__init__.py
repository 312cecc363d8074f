"""The command line: each command parses, calls one function of the library, and presents.

Libraries are imported inside the commands, so that `misgiving --help` answers at once.
"""

import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from misgiving.cli.calibrate import calibrate
from misgiving.cli.data import data_app
from misgiving.cli.evaluate import evaluate
from misgiving.cli.export import export
from misgiving.cli.plan import plan
from misgiving.cli.predict import predict
from misgiving.cli.progress import show_failure
from misgiving.cli.reproduce import reproduce
from misgiving.cli.serve import serve
from misgiving.cli.train import attach, train
from misgiving.errors import ExplainedError, UsageError
from misgiving.training.allocator import keep_freed_memory

INTERRUPTED = 130  # typer's exit code after Ctrl-C, of which it says nothing
EXTRAS = {  # by the modules that they install
    "torch timm lightning_fabric onnx onnxscript skimage transformers": "train",
    "onnxruntime fastapi h11 prometheus_client python_multipart sqlalchemy uvicorn": "serve",
    "psycopg": "postgresql",
    "ray": "ray",
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "unable to allocate")
SMALLER = (
    "choose a smaller --batch-size or --image-size where the command has them, or --device cpu; or "
    "wait until other programs release memory"
)


class OrderOfUse(TyperGroup):
    """Commands in the order in which they are used; typer puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """`data` first, then the commands as they were added."""
        return sorted(super().list_commands(ctx), key=lambda name: name != "data")


app = typer.Typer(
    cls=OrderOfUse,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (plan, train, attach, calibrate, evaluate, predict, export, serve, reproduce):
    app.command()(function)
app.add_typer(data_app, name="data")


def _version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version

        typer.echo(f"misgiving {version('misgiving')}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Image classifiers that know when they may be wrong.

    Trains a classifier together with an estimator of its own loss (Narayanaswamy et al., "Loss
    Estimators Improve Model Generalization"), measures whether that helps, and defers predictions
    that are not reliable enough.

    Exit codes: 0 done, 1 a failure that is explained in one line, 2 wrong usage, 130 stopped.
    """


def run() -> None:
    """Run the command line; a failure that can be explained is one line, not a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that unfinished files are removed
    keep_freed_memory()
    try:
        if "" in sys.argv[1:]:  # an empty path would stand for the working folder
            raise UsageError("an argument is empty; omit it or give it a value")
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            show_failure("stopped")
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        code = getattr(error, "exit_code", 1)
        show_failure(message, getattr(error, "images", ()))
    sys.exit(code or 0)


def explanation(error: Exception) -> str | None:
    """Message on an error for the user; None for one that is a defect of the program."""
    if isinstance(error, ExplainedError):
        return str(error)
    if hasattr(error, "format_message"):  # typer's own: wrong usage
        return _usage(error)
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        extra = next((EXTRAS[modules] for modules in EXTRAS if module in modules.split()), None)
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
        more = "-all" if any(option.name == "help_all" for option in context.command.params) else ""
        message += f" (see {context.command_path} --help{more})"
    return message[:1].lower() + message[1:]
