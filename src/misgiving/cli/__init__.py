"""The command line: each command parses, calls one function of the library, and presents.

Libraries are imported inside the commands, so that `misgiving --help` answers at once.
"""

import signal
import sys
from typing import Annotated

import typer

from misgiving.cli.attach import attach
from misgiving.cli.calibrate import calibrate
from misgiving.cli.data import data_app
from misgiving.cli.evaluate import evaluate
from misgiving.cli.export import export
from misgiving.cli.failures import explanation, show_failure
from misgiving.cli.plan import plan
from misgiving.cli.predict import predict
from misgiving.cli.reproduce import reproduce
from misgiving.cli.serve import serve
from misgiving.cli.train import train
from misgiving.errors import StoppedError, UsageError
from misgiving.training.allocator import keep_freed_memory

INTERRUPTED = 130  # typer's exit code after Ctrl-C, of which it says nothing

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (plan, train, attach, evaluate, calibrate, predict, export, serve, reproduce):
    app.command()(function)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"misgiving {version('misgiving')}")
        raise typer.Exit
    return wanted


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
        signal.signal(number, _stop)
    keep_freed_memory()
    try:
        if "" in sys.argv[1:]:  # an empty path would stand for the working folder
            raise UsageError("an argument is empty; omit it or give it a value")
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            raise StoppedError("stopped")
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        code = getattr(error, "exit_code", 1)
        show_failure(message, getattr(error, "images", ()))
    raise SystemExit(code or 0)


def _stop(*_: object) -> None:
    """End as at Ctrl-C, so that unfinished files are removed."""
    raise KeyboardInterrupt
