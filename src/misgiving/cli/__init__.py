"""The command line: each command parses, calls one function of the library, and presents.

Libraries are imported inside the commands, so that `misgiving --help` answers at once.
"""

import os
import signal
import sys
import warnings
from importlib.metadata import version
from inspect import signature

from cyclopts import App, CycloptsError

from misgiving.cli.calibrate import calibrate
from misgiving.cli.data import check, fetch, ood, prepare, sample
from misgiving.cli.draw import draw
from misgiving.cli.evaluate import evaluate
from misgiving.cli.export import export
from misgiving.cli.options import COMMAND_SETTINGS, message_of, read_arguments
from misgiving.cli.plan import plan
from misgiving.cli.predict import predict
from misgiving.cli.progress import say, show_failure
from misgiving.cli.reproduce import reproduce
from misgiving.cli.serve import serve
from misgiving.cli.store import add, delete, list_, resume, revoke, upgrade
from misgiving.cli.train import attach, train
from misgiving.errors import ExplainedError, UsageError
from misgiving.training.allocator import keep_freed_memory

INTERRUPTED = 130  # exit code after Ctrl-C
EXTRAS = {  # by the modules that they install
    "torch timm lightning_fabric onnx onnxscript skimage transformers": "train",
    "fastapi h11 onnxruntime prometheus_client python_multipart uvicorn": "serve",
    "alembic sqlalchemy": "serve",
    "psycopg": "postgresql",
    "pydicom": "dicom",
    "ray": "ray",
}
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed", "unable to allocate")
SMALLER = (
    "choose a smaller --batch-size or --image-size where the command has them, or --device cpu; or "
    "wait until other programs release memory"
)


app = App(
    "misgiving",
    help="""Classifiers that know when they may be wrong.

Trains a classifier together with an estimator of its own loss (Narayanaswamy et al., "Loss \
Estimators Improve Model Generalization"), measures whether that helps, and defers predictions \
that are not reliable enough.

Exit codes: 0 done, 1 a failure that is explained in one line, 2 wrong usage, 130 stopped.""",
    version=lambda: f"misgiving {version('misgiving')}",
    config=read_arguments,
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_none",
    help_flags=["--help", "-h"],
    help_format="plaintext",  # markdown would take longer to import
)
data_app = App(
    "data",
    help="Get, check and prepare images, and build out-of-distribution sets from them.",
    sort_key=-1,
)
cases_app = App("cases", help="Look after the store of a service.", sort_key=-1)
keys_app = App(
    "keys",
    help="Keys of a service, each with a role: send, read, operate, metrics.",
    sort_key=-1,
)
audits_app = App("audits", help="Audits of a service: resume after an alarm.", sort_key=-1)
for group, functions in (
    (data_app, (sample, prepare, ood, check, fetch)),
    (cases_app, (delete, upgrade)),
    (keys_app, (add, list_, revoke)),
    (audits_app, (resume,)),
    (app, (plan, train, attach, draw, calibrate, evaluate, predict, export, serve, reproduce)),
):
    if group is not app:
        app.command(group)
    for place, function in enumerate(functions):
        group.command(function, sort_key=place, **COMMAND_SETTINGS)


def run() -> None:
    """Run the command line."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # so that unfinished files are removed
    keep_freed_memory()
    warnings.showwarning = lambda message, *_, **__: say(f"Warning: {message}.")
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(words: list[str]) -> int:
    """Run a command; a failure that can be explained is one line, not a traceback."""
    try:
        if "" in words:  # an empty path would stand for the working folder
            raise UsageError("an argument is empty; omit it or give it a value")
        app(words)
    except KeyboardInterrupt:
        show_failure("stopped")
        return INTERRUPTED
    except BrokenPipeError:  # nobody reads on; the interpreter would fail to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        show_failure(message, getattr(error, "images", ()))
        return 2 if isinstance(error, CycloptsError) else getattr(error, "exit_code", 1)
    return 0


def explanation(error: Exception) -> str | None:
    """Message on an error for the user; None for one that is a defect of the program."""
    if isinstance(error, ExplainedError):
        return message_of(error)
    if isinstance(error, CycloptsError):  # wrong usage
        words = " ".join(("misgiving", *(error.command_chain or ())))
        has_more = error.target and "help_all" in signature(error.target).parameters
        text = str(error).removesuffix(".")
        return f"{text[:1].lower()}{text[1:]} (see {words} --help{'-all' * bool(has_more)})"
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        extra = next((EXTRAS[modules] for modules in EXTRAS if module in modules.split()), None)
        return extra and f"{error.name} is not installed; it comes with the extra {extra}"
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror or error}; check the path, free space and permissions"
    text = str(error).lower()
    reported = isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)
    if reported or isinstance(error, MemoryError):
        where = "the GPU" if "cuda" in text or "mps" in text else "the machine"
        return f"{where} is out of memory; {SMALLER}"
    return None
