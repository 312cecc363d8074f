"""The command line: each command parses, calls one function of the library, and presents.

Libraries are imported inside the commands, so that `misgiving --help` answers at once.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from misgiving.cli.data import data_app
from misgiving.cli.deferring import calibrate
from misgiving.cli.exporting import export
from misgiving.cli.options import process_number
from misgiving.cli.reproduction import reproduce
from misgiving.cli.serving import serve
from misgiving.cli.training import train
from misgiving.cli.using import evaluate, predict
from misgiving.errors import ExplainedError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, evaluate, calibrate, predict, export, serve, reproduce):
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


MISSING = {
    "torch": "train",
    "timm": "train",
    "lightning_fabric": "train",
    "matplotlib": "train",
    "skimage": "train",
    "onnx": "train",
    "onnxscript": "train",
    "onnxruntime": "serve",
    "fastapi": "serve",
    "httptools": "serve",
    "prometheus_client": "serve",
    "pydantic": "serve",
    "python_multipart": "serve",
    "sqlalchemy": "serve",
    "uvicorn": "serve",
}


def run() -> None:
    """Run the command line; a failure that can be explained is one line, not a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    if process_number():  # the first process shows what all have found
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # until the process ends
    try:
        _refuse_empty_arguments()
        app()
    except ExplainedError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        _fail(_missing_extra(error), 1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        _fail(f"{place}{reason}; check the place, its free space and its permissions", 1)


def _refuse_empty_arguments() -> None:
    if "" in sys.argv[1:]:  # an empty path would stand for the working folder
        raise UsageError("an argument is empty; leave it out or name something")


def _missing_extra(error: ModuleNotFoundError) -> str:
    extra = MISSING.get((error.name or "").split(".")[0])
    if extra is None:
        raise error
    return f"{error.name} is not installed; run: pip install 'misgiving[{extra}]'"


def _stop(*_: object) -> None:
    """End as at Ctrl-C, so that unfinished files are removed."""
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    who = f"process {process_number()}: " if process_number() else ""
    sys.stderr.write(f"{who}error: {line}\n")
    raise SystemExit(code)
