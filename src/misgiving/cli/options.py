"""Options of commands, made from the configuration dataclasses that they fill.

An option has the name, the type and the default of its field; its help is the field's text in the
docstring of the dataclass.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, cleandoc, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from misgiving.cli.failures import naming_options
from misgiving.cli.progress import only_first_process_prints
from misgiving.errors import UsageError, without_none
from misgiving.files import default_cache
from misgiving.training.config import DataConfig, TrainingConfig

PANELS = {
    "Data": "image_size crop color_constancy augment split validation_share on_bad_image",
    "Model": "backbone pretrained weights dropout taps reads_logits classes",
    "Objective": "auxiliary auxiliary_weight margin pairs reduction target detached class_weights "
    "primary_mean",
    "Optimisation": "sampling epochs batch_size optimizer learning_rate schedule warmup "
    "decay_every decay_factor estimator_rate beta1 weight_decay keep",
    "Targets": "max_error confidence class_max_miss max_ood_false_alarms simultaneous",
    "Decisions": "rule costs max_error_probability",
    "Protocol": "trials models in_distribution unseen masks learning_rates criterion",
    "Limits": "max_bytes max_pixels max_files queue timeout",
    "Machine": "seed device precision compiled devices nodes threads",
}
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
FLAGS = {
    "compiled": "--compile",
    "costs": "--cost",
    "criterion": "--odin-criterion",
    "simultaneous": "--simultaneous/--each",
}
"""Flags that are not the name of the field with hyphens."""

FOLDERS = ("keep_images", "masks")
INTERNAL = ("hidden",)  # fields that no command offers

PREDICTIONS = (".csv", ".npz", ".parquet")
PREDICTION_FILE = "file of predictions: .csv, .npz or .parquet."
FOR_IMAGES = {"on_bad_image", "cache", "device", "devices", "nodes", "contact_sheet"}
Values = dict[str, Any]
"""Values of options by field name, annotated with the `Fields` that they are for."""

DATA = (
    "`digits`, `folder:FOLDER` (a folder per class), `table:FILE.csv` (columns path, label, "
    "optional patient, lesion or group), `isic2019:FOLDER`, `ham10000:FOLDER` (the official "
    "layouts) or `medmnist:FILE.npz`."
)
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA)]
DataOrNone = Annotated[
    str | None, typer.Argument(metavar="[DATA]", help=f"For a RUN: {DATA}", show_default=False)
]
Context = Annotated[Any, typer.Context]
RunOrPredictions = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|PREDICTIONS",
        help=f"A folder that `train` wrote, or a {PREDICTION_FILE}",
    ),
]


Cache = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Folder for prepared images. Default: misgiving in the user's cache folder.",
        rich_help_panel="Data",
        default_factory=default_cache,
        show_default=False,
    ),
]


def seed_option(text: str, *, panel: str | None = None) -> Any:
    """The option of a seed, which numpy and scikit-learn can use."""
    return typer.Option(help=text, min=0, max=2**32 - 1, rich_help_panel=panel)


def is_prediction_file(path: Path) -> bool:
    """True for a file of predictions in place of a run or of data, by its suffix.

    >>> is_prediction_file(Path("p.csv")), is_prediction_file(Path("table:p.csv"))
    (True, False)
    """
    if path.suffix.lower() not in PREDICTIONS or path.is_dir():
        return False
    return path.exists() or not re.match(r"\w+:", str(path))


def refuse_data(predictions: Path, data: str | None) -> None:
    """Refuse DATA beside a file of predictions, which has all that is needed."""
    if data is not None:
        raise UsageError(f"{predictions} is a file of predictions; leave out DATA, here {data!r}")


def refuse_image_options(context: Any, predictions: Path) -> None:
    """Refuse options that say how images are read, beside a file of predictions."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name)
        if option.name in FOR_IMAGES and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"`{option.name}` is for images, and {predictions} is a file of predictions; "
                "leave it out"
            )


def require_data(run: Path, data: str | None) -> str:
    """DATA, which a run needs."""
    if data is None:
        raise UsageError(
            f"{run}: a run needs DATA; give it, or a file of predictions "
            f"({', '.join(PREDICTIONS)}) in place of both"
        )
    return data


@dataclass(frozen=True)
class Fields:
    """Fields of a configuration that become options of a command.

    Args:
        config: The dataclass.
        names: Names of the fields; all if empty.
        optional: Hand over only what is given, whatever the defaults of the fields.
        defaults: Configurations by name, whose values the help gives as defaults.
    """

    config: type
    names: tuple[str, ...] = ()
    optional: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Field[Any]]:
        for option in fields(self.config):
            if option.name in self.names or (not self.names and option.name not in INTERNAL):
                yield option


def texts_of(config: type) -> dict[str, str]:
    """Texts of the fields in the `Attributes:` of a dataclass and of those that it inherits from.

    >>> texts_of(DataConfig)["validation_share"]
    "Share of the images, drawn by class, that the paper's split holds out."
    """
    texts: dict[str, str] = {}
    for base in reversed(config.__mro__):
        _, _, attributes = cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", attributes, re.MULTILINE)
        texts |= {name: " ".join(text.split()) for name, text in entries}
    return texts


IMAGES = f"Image files, or folders of them; or one {PREDICTION_FILE}"
TableFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="File for the table: .csv, .parquet or .jsonl. Default: the screen, as CSV.",
    ),
]
BadImages = Fields(DataConfig, ("on_bad_image",))
Device = Fields(TrainingConfig, ("device",))
Devices = Fields(TrainingConfig, ("device", "devices", "nodes"))


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function, with options for the fields that its parameters ask for.

    A parameter whose type is a dataclass becomes one option for each field, and receives the filled
    dataclass; one of type `Annotated[Values, Fields(...), ...]` receives a
    dictionary; one of type `Context` receives the command's context. Failures name the command's
    own options where the library names parameters. With --devices or --nodes above 1, only the
    first process prints.
    """
    groups: dict[str, tuple[Callable[..., Any], list[Fields]]] = {}
    context_name = None
    parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for parameter in signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        selections = [part for part in get_args(kind) if isinstance(part, Fields)]
        if kind == Context:
            context_name = parameter.name
        elif selections or is_dataclass(kind):
            groups[parameter.name] = (dict, selections) if selections else (kind, [Fields(kind)])
            parameters += [
                _parameter(option, part) for part in groups[parameter.name][1] for option in part
            ]
        else:
            parameters.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @wraps(function)
    def run(context: Any, **given: Any) -> None:
        shared = any((given.get(name) or 1) > 1 for name in ("devices", "nodes"))
        with naming_options(context), only_first_process_prints() if shared else nullcontext():
            filled = {name: make(**_take(given, part)) for name, (make, part) in groups.items()}
            if context_name is not None:
                filled[context_name] = context
            function(**filled, **given)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _take(given: Values, selections: Sequence[Fields]) -> Values:
    """Take the values of these options out of `given`, by field."""
    return {
        option.name: _value(option, value)
        for selection in selections
        for option in selection
        if (value := given.pop(option.name)) is not None
    }


def _parameter(option: Field[Any], selection: Fields) -> Parameter:
    """The parameter of which typer makes the option of a field."""
    kind, flag, metavar = without_none(option.type), FLAGS.get(option.name), None
    text = texts_of(selection.config)[option.name]
    default = (
        None if selection.optional or option.default_factory is not MISSING else option.default
    )
    if get_origin(kind) is tuple:
        kind, metavar = str, "A,B,..."
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    elif get_origin(kind) is Mapping:
        kind, metavar, text = list[str], "CLASS=NUMBER,...", f"{text} Can be repeated."
    elif kind is Path or option.name in FOLDERS:
        metavar = "FOLDER" if option.name in FOLDERS else "FILE"
    if default is False and flag is None:
        flag = f"--{option.name.replace('_', '-')}"  # without a --no-... beside it
    made = typer.Option(
        *filter(None, [flag]),
        help=text + _defaults_of(option.name, selection.defaults),
        rich_help_panel=PANEL_OF.get(option.name),
        metavar=metavar,
    )
    return Parameter(
        option.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if default is MISSING else default,
        annotation=Annotated[kind | None if default is None else kind, made],
    )


def _defaults_of(name: str, configurations: Mapping[str, Any]) -> str:
    """Sentence on the default of a field: the first configuration's, and those that differ."""
    words = {True: "yes", False: "no"}
    values = {key: getattr(config, name) for key, config in configurations.items()}
    texts = {
        key: words[value] if isinstance(value, bool) else str(value)
        for key, value in values.items()
        if value is not None
    }
    if not texts:
        return ""
    first, *others = texts.items()
    different = [f"{key}: {text}" for key, text in others if text != first[1]]
    return f" Default: {first[1]}" + (f" ({', '.join(different)})." if different else ".")


def _value(option: Field[Any], given: Any) -> Any:
    """The value of a field from what was typed: tuples and mappings are typed as text."""
    kind = without_none(option.type)
    if get_origin(kind) is tuple:
        return _items(option.name, given, get_args(kind)[0])
    return _rates(option.name, given) if get_origin(kind) is Mapping else given


def _items(name: str, text: str, kind: Any) -> tuple[Any, ...]:
    items = [item.strip() for item in text.split(",")]
    if kind in (int, float):
        try:
            return () if text == "none" else tuple(map(kind, items))
        except ValueError:
            what = "whole numbers" if kind is int else "numbers"
            raise UsageError(f"`{name}` must be {what} separated by commas, got {text!r}") from None
    if unknown := [item for item in items if item not in (get_args(kind) or items)]:
        raise UsageError(f"`{name}` must be among {', '.join(get_args(kind))}, got {unknown[0]!r}")
    return tuple(items)


def _rates(name: str, texts: Sequence[str]) -> dict[str, float]:
    """Rates by class from texts of the form `CLASS=RATE,...`.

    >>> _rates("class_max_miss", ["MEL=0.02,BCC=0.1", "a, b=0.5"])
    {'MEL': 0.02, 'BCC': 0.1, 'a, b': 0.5}
    """
    rates: dict[str, float] = {}
    for text in texts:
        pairs = re.findall(r"(.*?)=([^=,]*)(?:,|$)", text, re.DOTALL)
        try:
            parsed = {key: float(rate) for key, rate in pairs if key}
        except ValueError:
            parsed = {}
        if not parsed or ",".join(f"{key}={rate}" for key, rate in pairs) != text:
            raise UsageError(f"`{name}` {text!r} is not CLASS=RATE; write it as MEL=0.02")
        if parsed.keys() & rates.keys() or len(parsed) < len(pairs):
            raise UsageError(f"`{name}` {text!r} gives a class twice; give one rate for each class")
        rates |= parsed
    return rates
