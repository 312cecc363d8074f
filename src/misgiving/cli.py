"""The command line: each command parses, calls one function of the library, and presents.

Libraries are imported inside the commands, so that `misgiving --help` answers at once.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from misgiving.errors import ExplainedError, UsageError

if TYPE_CHECKING:
    from misgiving.evaluation import Measurement
    from misgiving.experiments.protocol import Unit
    from misgiving.training import Step

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console(stderr=True, highlight=False, markup=False, emoji=False)

DATA_HELP = (
    "`digits`, `folder:FOLDER` (a folder per class), `table:FILE.csv` (columns path, label, "
    "optional group) or `isic2019:FOLDER` (the official layout)."
)
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `train` wrote.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where prepared images are kept. Default: misgiving in the user's cache folder.",
        rich_help_panel="Data",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel="Machine")]


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


@app.command()
def train(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to write the run to.")],
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side of the square images in pixels. Default: 224.", rich_help_panel="Data"
        ),
    ] = None,
    crop: Annotated[
        float | None,
        typer.Option(
            help="Share of both sides that the centre crop keeps. Default: 0.85.",
            rich_help_panel="Data",
        ),
    ] = None,
    color_constancy: Annotated[
        str | None,
        typer.Option(
            help="shades_of_gray, gray_world or none. Default: shades_of_gray.",
            rich_help_panel="Data",
        ),
    ] = None,
    augment: Annotated[
        bool,
        typer.Option(
            help="Flips, colour jitter, rotation and translation.", rich_help_panel="Data"
        ),
    ] = True,
    validation_share: Annotated[
        float,
        typer.Option(
            help="Share of the images, drawn by class, that is held out.", rich_help_panel="Data"
        ),
    ] = 0.1,
    cache: Cache = None,
    backbone: Annotated[
        str, typer.Option(help="Any timm model, or vgg16_mini.", rich_help_panel="Model")
    ] = "vgg16",
    pretrained: Annotated[
        bool, typer.Option(help="Start from timm's ImageNet weights.", rich_help_panel="Model")
    ] = True,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from a local safetensors file or torch state dict (timm's names) instead.",
            rich_help_panel="Model",
        ),
    ] = None,
    dropout: Annotated[float, typer.Option(help="Dropout rate.", rich_help_panel="Model")] = 0.4,
    taps: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,...",
            help="timm feature levels that the loss estimator reads. Default: the paper's four of "
            "a VGG, the last four elsewhere.",
            rich_help_panel="Model",
        ),
    ] = None,
    auxiliary: Annotated[
        str,
        typer.Option(
            help="What the loss estimator learns: ranking (Eq. 1), mse, or none for the plain "
            "classifier.",
            rich_help_panel="Objective",
        ),
    ] = "ranking",
    auxiliary_weight: Annotated[
        float, typer.Option(help="Lambda of Eq. 2.", rich_help_panel="Objective")
    ] = 0.5,
    margin: Annotated[
        float, typer.Option(help="Gamma of Eq. 1.", rich_help_panel="Objective")
    ] = 1.0,
    pairs: Annotated[
        str, typer.Option(help="all ordered pairs, or halves.", rich_help_panel="Objective")
    ] = "all",
    reduction: Annotated[
        str, typer.Option(help="mean or sum over the pairs.", rich_help_panel="Objective")
    ] = "mean",
    target: Annotated[
        str,
        typer.Option(
            help="The estimator learns the loss as trained on (with class weights) or the plain "
            "one: trained or plain.",
            rich_help_panel="Objective",
        ),
    ] = "trained",
    joint_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs in which the estimator's gradient enters the backbone; 0 for never. "
            "Default: always.",
            rich_help_panel="Objective",
        ),
    ] = None,
    class_weights: Annotated[
        str,
        typer.Option(
            help="Weigh the loss by class frequency: inverse, sqrt or none.",
            rich_help_panel="Objective",
        ),
    ] = "inverse",
    primary_mean: Annotated[
        str,
        typer.Option(
            help="Mean of the weighted cross-entropy: weighted (by the sum of weights) or plain.",
            rich_help_panel="Objective",
        ),
    ] = "weighted",
    sampling: Annotated[
        str,
        typer.Option(
            help="Draw images by class frequency: inverse, sqrt or none.",
            rich_help_panel="Optimisation",
        ),
    ] = "inverse",
    epochs: Annotated[
        int, typer.Option(help="Passes over the data.", rich_help_panel="Optimisation")
    ] = 50,
    batch_size: Annotated[
        int, typer.Option(help="Images in one step.", rich_help_panel="Optimisation")
    ] = 64,
    learning_rate: Annotated[
        float, typer.Option(help="Adam's, at the start.", rich_help_panel="Optimisation")
    ] = 1e-4,
    decay_every: Annotated[
        int, typer.Option(help="Epochs between reductions.", rich_help_panel="Optimisation")
    ] = 10,
    decay_factor: Annotated[
        float, typer.Option(help="What a reduction multiplies by.", rich_help_panel="Optimisation")
    ] = 0.5,
    estimator_rate: Annotated[
        float,
        typer.Option(
            help="The loss estimator's learning rate as a multiple of the classifier's.",
            rich_help_panel="Optimisation",
        ),
    ] = 1.0,
    beta1: Annotated[
        float, typer.Option(help="Adam's first moment.", rich_help_panel="Optimisation")
    ] = 0.9,
    weight_decay: Annotated[
        float, typer.Option(help="Adam's L2 penalty.", rich_help_panel="Optimisation")
    ] = 5e-4,
    keep: Annotated[
        str,
        typer.Option(
            help="Weights of the last epoch, or of the one with the best validation balanced "
            "accuracy: last or best.",
            rich_help_panel="Optimisation",
        ),
    ] = "last",
    seed: Annotated[
        int,
        typer.Option(
            help="The same seed gives the same run (on a CPU).", rich_help_panel="Machine"
        ),
    ] = 0,
    device: Device = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="32-true, bf16-mixed, 16-mixed, ...",
            rich_help_panel="Machine",
        ),
    ] = "32-true",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace RUN if it exists.")
    ] = False,
) -> None:
    """Train one classifier together with its loss estimator.

    Splits DATA into a training and a validation part, stratified by class; trains with the paper's
    settings unless told otherwise; and writes the folder RUN: `model.safetensors`, `config.json`,
    `split.csv` (which image was in which part) and `history.csv` (losses, accuracy and how well
    predicted losses follow true ones, per epoch and part).

    Example: misgiving train isic2019:ISIC_2019 --out runs/joint
    """
    from misgiving.experiments.runs import ModelSettings, prepare_run, train_run
    from misgiving.training import TrainingConfig

    _refuse_existing(out, overwrite)
    given = locals()
    training = TrainingConfig(**{field.name: given[field.name] for field in fields(TrainingConfig)})
    model = ModelSettings(
        backbone=backbone,
        pretrained=pretrained,
        weights=weights,
        dropout=dropout,
        taps=_numbers(taps),
    )
    preprocessing = {"image_size": image_size, "crop": crop, "color_constancy": color_constancy}
    with _progress() as progress:
        run = prepare_run(
            data,
            model=model,
            training=training,
            preprocessing={k: v for k, v in preprocessing.items() if v is not None},
            augment=augment,
            validation_share=validation_share,
            cache=_cache(cache),
            on_image=_Bar(progress, "preparing images").at,
        )
        train_run(run, out, on_step=_Steps(progress, epochs).show, on_weights=_say_weights)
    _say_history(out / "history.csv")
    console.print(f"wrote {out}")


def _numbers(taps: str | None) -> tuple[int, ...] | None:
    if taps is None:
        return None
    try:
        return tuple(int(tap) for tap in taps.split(","))
    except ValueError:
        raise UsageError(f"--taps must be whole numbers parted by commas, got {taps!r}") from None


def _refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse, before the work is done, a place that cannot or must not be written to."""
    if not os.path.lexists(out):
        probe = next(parent for parent in out.absolute().parents if parent.exists())
        if not (probe.is_dir() and os.access(probe, os.W_OK)):
            raise UsageError(f"{out}: {probe} is not a folder to write to; choose another --out")
    elif not overwrite:
        raise UsageError(f"{out} exists; choose another --out or say --overwrite")
    elif out.is_symlink() or not (out / "split.csv").is_file():
        raise UsageError(f"{out} is not a run; --overwrite replaces nothing else")


@app.command()
def evaluate(
    run: RunFolder,
    data: Data,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder of images of another kind, to be told apart. Can be repeated.",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Measure only this part of the run's split (train, validation). Default: all "
            "images that the model was not trained on."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where to write measurements.csv and predictions. Default: RUN/evaluation.",
        ),
    ] = None,
    cache: Cache = None,
    device: Device = "auto",
) -> None:
    """Measure a trained model on images that it was not trained on.

    Leaves out the images of DATA on which the model was trained (by content), and says how many
    that was. Classification, loss estimation (predicted loss, and MSP beside it) and, for each
    --ood folder, the five OOD metrics of several detectors with in-distribution as positives.
    """
    from misgiving.experiments.measuring import evaluate_run

    with _progress() as progress:
        evaluation = evaluate_run(
            run,
            data,
            ood=ood or [],
            part=part,
            out=out or run / "evaluation",
            cache=_cache(cache),
            device=device,
            on_image=_Bar(progress, "preparing images").at,
        )
    for sentence in evaluation.account:
        console.print(sentence)
    _print_measurements(evaluation.measurements)
    console.print(f"wrote {out or run / 'evaluation'}")


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of them.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Where to write the table. Default: the screen."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Predict the class and the loss of images, as a CSV.

    Columns: path, predicted_class, probability (of that class), predicted_loss (higher = rather
    wrong; trained by ranking it has no unit; empty for a model without a trained loss estimator).
    """
    from misgiving.experiments.measuring import predict_images
    from misgiving.files import csv_text, write_text

    with _progress() as progress:
        header, rows = predict_images(
            run, images, device=device, on_image=_Bar(progress, "predicting").at
        )
    if out is None:
        typer.echo(csv_text(header, rows), nl=False)
    else:
        write_text(out, csv_text(header, rows))
        console.print(f"wrote {out} ({len(rows)} images)")


@app.command()
def reproduce(
    data: Annotated[
        str, typer.Option(metavar="DATA", help="`digits`, which ships with scikit-learn.")
    ] = "digits",
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where to write, and to go on.")
    ] = Path("runs/reproduce"),
    trials: Annotated[int | None, typer.Option(help="Independent repetitions.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training.")] = None,
    seed: Annotated[int | None, typer.Option(help="Trial t has the seed SEED + t.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Any timm model, or vgg16_mini.")] = None,
    models: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Columns: vanilla, mse, detached, proposed."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Units of work at one time.", rich_help_panel="Machine")
    ] = 1,
    cache: Cache = None,
) -> None:
    """Run the paper's three experiments over trials and write the report.

    Sections 4.1 (generalisation), 4.2 (OOD detection with ODIN) and 4.3 (unseen classes), for the
    plain classifier (vanilla), joint training with a squared error (mse), a ranking estimator that
    does not touch the classifier (detached) and the paper's joint training (proposed). Writes
    `results.csv`, `intervals.csv`, `report.html` and figures. Finished units of work are kept:
    run again, it goes on where it stopped, and does nothing where nothing has changed.
    """
    from misgiving.experiments.collection import collect
    from misgiving.experiments.protocol import Bench, Listener, protocol_for, reproduce_units
    from misgiving.report.page import write_report

    protocol = protocol_for(
        data, trials=trials, epochs=epochs, seed=seed, backbone=backbone, models=_names(models)
    )
    with _progress() as progress:
        units, steps = _Units(progress), _Steps(progress, protocol.training.epochs)
        listener = Listener(
            on_start=units.start,
            on_unit=units.show,
            on_step=steps.show,
            on_image=_Bar(progress, "preparing images").at,
        )
        bench = Bench(protocol, _cache(cache), listener)
        reproduce_units(bench, out, jobs=jobs)
        collect(bench, out)
    console.print(f"wrote {write_report(out)}")


def _names(models: str | None) -> tuple[str, ...] | None:
    return None if models is None else tuple(name.strip() for name in models.split(","))


def _cache(cache: Path | None) -> Path:
    from misgiving.data.loading import default_cache

    return cache or default_cache()


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            raise Stopped("stopped; nothing half-written is left") from None


class Stopped(ExplainedError):
    """The person, or the system, has stopped the command."""

    exit_code = 130


class _Bar:
    """A bar that appears with the first report."""

    def __init__(self, progress: Progress, description: str) -> None:
        self._progress, self._description = progress, description
        self._task: Any = None

    def at(self, done: int, total: int) -> None:
        if self._task is None or done <= 1:
            self._task = self._progress.add_task(self._description, total=total)
        self._progress.update(self._task, completed=done, visible=done < total)


class _Steps:
    """The running epoch, with its mean losses so far."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._task = progress.add_task("training", visible=False)

    def show(self, step: "Step") -> None:
        auxiliary = "" if step.auxiliary != step.auxiliary else f"  auxiliary {step.auxiliary:.3f}"
        description = (
            f"epoch {step.epoch}/{self._epochs}  primary loss {step.primary:.3f}{auxiliary}"
        )
        self._progress.update(
            self._task,
            description=description,
            total=step.steps,
            completed=step.step,
            visible=True,
        )


class _Units:
    """How many units of work are finished."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("units", visible=False)
        self._done, self._count = 0, 0

    def start(self, todo: int, count: int) -> None:
        self._done, self._count = count - todo, count
        self._progress.update(self._task, total=count, completed=self._done, visible=todo > 0)
        if self._done:
            self._progress.console.print(f"{self._done} of {count} units were finished before")

    def show(self, unit: "Unit") -> None:
        self._done += 1
        self._progress.update(self._task, completed=self._done)
        name = f"{unit.experiment}, trial {unit.trial}, {unit.model}"
        place = f"[{self._done}/{self._count}]"
        self._progress.console.print(f"{place} finished {name}")


def _say_weights(report: object) -> None:
    console.print(f"weights: {report}")


def _say_history(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    table = Table(*lines[0].split(","), title="last epoch")
    for line in lines[-2:]:
        table.add_row(*(_short(cell) for cell in line.split(",")))
    Console().print(table)


def _short(cell: str) -> str:
    try:
        return f"{float(cell):.4g}"
    except ValueError:
        return cell


def _print_measurements(measurements: Sequence["Measurement"]) -> None:
    table = Table("dataset", "detector", "metric", "value")
    for measurement in measurements:
        table.add_row(*measurement[:3], f"{measurement.value:.4g}")
    Console().print(table)


MISSING = {
    "torch": "train",
    "timm": "train",
    "lightning_fabric": "train",
    "matplotlib": "train",
    "skimage": "train",
}


def run() -> None:
    """Run the command line; a failure that can be explained is one line, not a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
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
    sys.stderr.write(f"error: {line}\n")
    raise SystemExit(code)
