"""Options of commands, made from the configuration dataclasses that they fill.

An option has the name, the type and the default of its field; its help is the field's text in the
docstring of the dataclass.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, cleandoc, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from misgiving.cli.failures import naming_options
from misgiving.errors import UsageError, without_none
from misgiving.files import default_cache
from misgiving.training.config import DataConfig, TrainingConfig

FLAGS = {
    "compiled": "--compile",
    "costs": "--cost",
    "criterion": "--odin-criterion",
    "simultaneous": "--simultaneous/--each",
}
"""Flags that are not the name of the field with hyphens."""

MACHINE = ("seed", "device", "precision", "compiled", "devices", "nodes", "threads")
FOLDERS = ("keep_images", "masks")
INTERNAL = ("hidden",)  # fields that no command offers

PREDICTIONS = (".csv", ".npz", ".parquet")
PREDICTION_FILE = "file of predictions: .csv, .npz or .parquet."
FOR_FILES = {"policy"}
FOR_IMAGES = {
    *("on_bad_image", "cache", "device", "contact_sheet", "model", "training_data"),
}
"""Options that do not apply to the other kind of source."""

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
DataOrPredictions = Annotated[
    str, typer.Argument(metavar="DATA|PREDICTIONS", help=f"{DATA} Or a {PREDICTION_FILE}")
]
RunOrPredictions = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|PREDICTIONS", help=f"A folder that `train` wrote, or a {PREDICTION_FILE}"
    ),
]
Context = Annotated[Any, typer.Context]
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


def seed_option(text: str) -> Any:
    """The option of a seed, which numpy and scikit-learn can use."""
    return typer.Option(help=text, min=0, max=2**32 - 1)


def is_prediction_file(source: str | Path) -> bool:
    """True for a file of predictions in place of a run or of data, by its suffix.

    >>> is_prediction_file("p.csv"), is_prediction_file("table:p.csv")
    (True, False)
    """
    path = Path(source)
    if path.suffix.lower() not in PREDICTIONS or path.is_dir():
        return False
    return path.exists() or not re.match(r"\w+:", str(source))


def check_source(context: Any, source: str | Path, *, out: str | None = None) -> bool:
    """Check that the options suit what a command works on; true for a file of predictions.

    Args:
        context: Of the command.
        source: The file, the run or the data.
        out: Option that a file of predictions needs.
    """
    is_file = is_prediction_file(source)
    kind, other = "a file of predictions", "images"
    for option in context.command.params:
        given = context.get_parameter_source(option.name)
        wrong = option.name in (FOR_IMAGES if is_file else FOR_FILES)
        if wrong and option.param_type_name == "option" and given.name == "COMMANDLINE":
            detail = f"{other}, and {source} is {kind}" if is_file else kind
            raise UsageError(f"`{option.name}` is for {detail}; leave it out")
    if is_file and out is not None and context.params[out] is None:
        raise UsageError(f"{source} is {kind}; give `{out}`, the folder to write to")
    return is_file


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


BadImages = Fields(DataConfig, ("on_bad_image",))
Device = Fields(TrainingConfig, ("device",))


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function, with options for the fields that its parameters ask for.

    A parameter whose type is a dataclass becomes one option for each field, and receives the filled
    dataclass; one of type `Annotated[Values, Fields(...), ...]` receives a
    dictionary; one of type `Context` receives the command's context. Failures name the command's
    own options where the library names parameters.
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
        with naming_options(context):
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
    """The parameter of which typer makes the option of a field, in the panel of its dataclass."""
    words = re.findall("[A-Z][a-z]+", selection.config.__name__.removesuffix("Config"))
    kind, flag, metavar = without_none(option.type), FLAGS.get(option.name), None
    text = texts_of(selection.config)[option.name]
    default = (
        None if selection.optional or option.default_factory is not MISSING else option.default
    )
    if get_origin(kind) is tuple:
        kind, metavar = str, "A,B,..."
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    elif get_origin(kind) is Mapping:
        kind, metavar, text = list[str], "CLASS=NUMBER", f"{text} Can be repeated."
    elif kind is Path or option.name in FOLDERS:
        metavar = "FOLDER" if option.name in FOLDERS else "FILE"
    if default is False and flag is None:
        flag = f"--{option.name.replace('_', '-')}"  # without a --no-... beside it
    made = typer.Option(
        *filter(None, [flag]),
        help=text + _defaults_of(option.name, selection.defaults),
        rich_help_panel="Machine" if option.name in MACHINE else " ".join(words),
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
        given = () if given == "none" else [item.strip() for item in given.split(",")]
    elif get_origin(kind) is Mapping:
        if plain := [text for text in given if "=" not in text]:
            raise UsageError(f"`{option.name}` takes CLASS=NUMBER, got {plain[0]!r}")
        given = dict(text.rpartition("=")[::2] for text in given)
    else:
        return given
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        problem = error.errors()[0]
        reason = f"{problem['input']!r} ({problem['msg'].lower()})"
        raise UsageError(f"`{option.name}` cannot contain {reason}") from None
