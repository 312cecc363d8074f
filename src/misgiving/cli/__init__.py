"""The command line: each command parses, calls one function of the library, and presents.

Libraries are imported inside the commands, so that `misgiving --help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.bad_images import list_bad_images
from misgiving.cli.data import data_app
from misgiving.cli.deferring import calibrate
from misgiving.cli.exporting import export
from misgiving.cli.faults import Fault, fault_of
from misgiving.cli.options import process_number
from misgiving.cli.reproduction import reproduce
from misgiving.cli.training import train
from misgiving.cli.using import evaluate, predict
from misgiving.errors import UsageError, visible

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, evaluate, calibrate, predict, export, reproduce):
    app.command()(command)
app.add_typer(data_app, name="data")


def _version(wanted: bool) -> bool:
    if wanted:
        import misgiving

        typer.echo(f"misgiving {misgiving.__version__}")
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
    Estimators Improve Model Generalization"), and measures honestly what that buys.

    Exit codes: 0 done, 1 a failure that is explained in one line, 2 wrong usage.
    """


def run() -> None:
    """Run the command line; a failure that can be explained is one line, not a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        _refuse_empty_arguments()
        with _only_the_first_shows():
            app()
    except Exception as error:
        fault = fault_of(error)
        if fault is None:
            raise
        _show(fault)
        raise SystemExit(fault.code) from None


@contextmanager
def _only_the_first_shows() -> Iterator[None]:
    """What all processes of a command have found is shown once."""
    if not process_number():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        yield


def _refuse_empty_arguments() -> None:
    if "" in sys.argv[1:]:  # an empty path would stand for the working folder
        raise UsageError("an argument is empty; leave it out or name something")


def _stop(*_: object) -> None:
    """End as at Ctrl-C, so that unfinished files are removed."""
    raise KeyboardInterrupt


def _show(fault: Fault) -> None:
    line = visible(" ".join(fault.message.split()))
    who = f"process {process_number()}: " if process_number() else ""
    sys.stderr.write(f"{who}error: {line}\n")
    list_bad_images(fault.images)
