"""Options of commands, made from signatures, docstrings and the configurations that they fill.

An option has the name, the type and the default of its parameter or field; its help is the text in
`Args:` of the command or in `Attributes:` of the dataclass, `name (METAVAR): text`.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, cleandoc, signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import OptionInfo

from misgiving.cli.progress import COMMAND, with_options
from misgiving.errors import ExplainedError, UsageError, explain_damage, without_none
from misgiving.files import default_cache
from misgiving.training.config import DataConfig, TrainingConfig

FLAGS = {
    "compiled": "--compile",
    "costs": "--cost",
    "criterion": "--odin-criterion",
    "set_name": "--set",
    "simultaneous": "--simultaneous/--each",
}
"""Flags that are not the name of the field with hyphens."""

MACHINE = ("seed", "device", "precision", "compiled", "devices", "nodes", "threads")
INTERNAL = ("hidden",)  # fields that no command offers
LIST, MAPPING = "A,B,...", "CLASS=NUMBER"  # how tuples and mappings are typed
RATE = "NUMBER|off"  # how a number is typed that can be None
GIVEN = ("COMMANDLINE", "DEFAULT_MAP")  # typed, or in the file of --config

BRIEF = (
    *("data", "out", "overwrite", "ood", "trials", "models", "jobs", "recipe", "image_size"),
    *("augment", "split", "on_bad_image", "backbone", "weights", "pretrained", "epochs"),
    *("batch_size", "learning_rate", "seed", "device", "classes"),
)
"""Parameters that --help shows where there is --help-all."""

Values = dict[str, Any]
"""Values of options by field name, annotated with the `Fields` that they are for."""

PREDICTION_FILE = "file of predictions: .csv, .npz or .parquet."
DATA = (
    "`digits`, `folder:FOLDER` (a folder per class), `table:FILE` (columns path, label, "
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
_JUDGES = "which helps to judge the answers and never changes them. Default name: that of the"
SecondOpinion = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]RUN|PREDICTIONS",
        help="Another model of the same classes, or its predictions for the same images, "
        f"{_JUDGES} folder or file. Can be repeated.",
    ),
]
OpinionOfRun = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]RUN",
        help=f"Another model of the same classes, {_JUDGES} folder. Can be repeated.",
    ),
]
Cache = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Folder for prepared images. Default: misgiving in the user's cache folder.",
        default_factory=default_cache,
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1)]  # as numpy and scikit-learn can use it
Count = Annotated[int | None, typer.Option(min=1)]


def check_options(case: str, *, needed: Sequence[str] = (), unused: Sequence[str] = ()) -> None:
    """Check the parameters of the command that runs for a case, such as "with --ray"."""
    context = COMMAND.get()
    for name in unused:
        if name in context.params and context.get_parameter_source(name).name in GIVEN:
            raise UsageError(f"`{name}` has no effect {case}; leave it out")
    for name in needed:
        if context.params[name] is None:
            raise UsageError(f"`{name}` is required {case}")


def _show_all(context: Any, asked: bool) -> None:
    """Show the help with the options that --help leaves out."""
    if asked:
        for parameter in context.command.params:
            parameter.hidden = False
        typer.echo(context.get_help())
        raise typer.Exit


def _read_config(context: Any, file: Path | None) -> None:
    """Make the values in a file the defaults of options."""
    if file is None:
        return
    with explain_damage(file, remedy="give a TOML file of options"):
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    options = {
        option.opts[0].removeprefix("--"): option
        for option in context.command.params
        if option.param_type_name == "option" and not option.is_eager
    }
    context.default_map = {}
    for key, value in content.items():
        if key not in options:
            raise UsageError(f"{file}: {key!r} is not an option of {context.command.name}")
        try:
            context.default_map[options[key].name] = _as_typed(context, options[key], value)
        except typer.BadParameter as error:
            reason = error.message.replace("Value error, ", "").rstrip(".")
            raise UsageError(f"{file}: {key!r} is {value!r}: {reason}") from None


def _as_typed(context: Any, option: Any, value: Any) -> str | list[str]:
    """A value of a file as it is typed on the command line; refused if the option does not fit."""
    if isinstance(value, dict) and option.metavar == MAPPING:
        value = [f"{name}={number}" for name, number in value.items()]
    items = [*map(str, value)] if isinstance(value, list) else [str(value)]
    text = items if option.multiple else ",".join(items)
    converted = option.process_value(context, text)
    if isinstance(converted, str | Path) and text != value and option.metavar != LIST:
        raise typer.BadParameter("text is expected")
    return text


def _more(
    *,
    config: Annotated[Path | None, typer.Option(is_eager=True, callback=_read_config)] = None,
    help_all: Annotated[bool, typer.Option(is_eager=True, callback=_show_all)] = False,
) -> None:
    """Options of a command with many.

    Args:
        config (FILE): TOML file of options, such as `batch-size = 64`; the command line wins.
        help_all: Show all options.
    """


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


BadImages = Fields(DataConfig, ("on_bad_image",))
Device = Fields(TrainingConfig, ("device",))


def texts_of(documented: Any) -> dict[str, tuple[str | None, str]]:
    """Metavar and text of each parameter or field that a docstring describes.

    >>> texts_of(DataConfig)["validation_share"]
    (None, "Share of the images, drawn by class, that the paper's split holds out.")
    """
    entry = re.compile(r"^    (\w+)(?: \((\S+)\))?: (.+(?:\n {5,}.+)*)", re.MULTILINE)
    described = entry.findall(cleandoc(documented.__doc__ or ""))
    return {name: (metavar or None, " ".join(text.split())) for name, metavar, text in described}


def command(function: Callable[..., None], *, brief: bool = False) -> Callable[..., None]:
    """Make a command of a function: positional parameters are its arguments, others its options.

    A parameter whose type is a dataclass becomes one option for each field, and receives the filled
    dataclass; one of type `Annotated[Values, Fields(...), ...]` receives a dictionary. Failures
    name the command's own options where the library names parameters. A `brief` command shows only
    the options of `BRIEF` in --help.
    """
    texts = texts_of(function)
    groups: dict[str, tuple[Callable[..., Any], list[Fields]]] = {}
    parameters = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for parameter in signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        selections = [part for part in get_args(kind) if isinstance(part, Fields)]
        if selections or is_dataclass(kind):
            groups[parameter.name] = (dict, selections) if selections else (kind, [Fields(kind)])
            parameters += [
                _of_field(option, part) for part in groups[parameter.name][1] for option in part
            ]
        else:
            parameters.append(_described(parameter, *texts.get(parameter.name, (None, None))))
    if brief:
        parameters = _brief(parameters)

    @wraps(function)
    def run(context: Any, config: Any = None, help_all: Any = None, **given: Any) -> None:
        del config, help_all  # their callbacks have done what they ask for
        COMMAND.set(context)
        try:
            filled = {name: make(**_take(given, part)) for name, (make, part) in groups.items()}
            function(**filled, **given)
        except ExplainedError as error:
            error.args = (with_options(str(error)),)
            raise

    run.__doc__ = cleandoc(function.__doc__ or "").partition("\nArgs:\n")[0]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _brief(parameters: Sequence[Parameter]) -> list[Parameter]:
    """Hide all options but `BRIEF` in --help, and add --help-all and --config."""
    for parameter in parameters:
        for option in get_args(parameter.annotation)[1:]:
            option.hidden = isinstance(option, OptionInfo) and parameter.name not in BRIEF
    texts, more = texts_of(_more), signature(_more).parameters.values()
    return [*parameters, *(_described(parameter, *texts[parameter.name]) for parameter in more)]


def _described(
    parameter: Parameter, metavar: str | None, text: str | None, panel: str | None = None
) -> Parameter:
    """The parameter of which typer makes an argument or an option."""
    kind, *parts = [parameter.annotation]
    if get_origin(kind) is Annotated:
        kind, *parts = get_args(kind)
    positional = parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    made = copy(parts[0]) if parts else (typer.Argument() if positional else typer.Option())
    made.help, made.metavar = made.help or text, made.metavar or metavar
    made.rich_help_panel = panel
    if not (positional or made.param_decls):
        flag = FLAGS.get(parameter.name)
        if parameter.default is False and flag is None:  # without a --no-... beside it
            flag = f"--{parameter.name.replace('_', '-')}"
        made.param_decls = tuple(filter(None, [flag]))
    return parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=Annotated[kind, made])


def _of_field(option: Field[Any], selection: Fields) -> Parameter:
    """The parameter of which typer makes the option of a field, in the panel of its dataclass."""
    words = re.findall("[A-Z][a-z]+", selection.config.__name__.removesuffix("Config"))
    kind, (metavar, text) = without_none(option.type), texts_of(selection.config)[option.name]
    can_be_off = kind is float and kind is not option.type and option.default is not None
    default = (
        None if selection.optional or option.default_factory is not MISSING else option.default
    )
    if get_origin(kind) is tuple:
        kind, metavar = str, LIST
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default
    elif get_origin(kind) is Mapping:
        kind, metavar, text = list[str], MAPPING, f"{text} Can be repeated."
    elif kind is Path:
        metavar = metavar or "FILE"
    elif can_be_off:
        kind, metavar, default = str, RATE, str(default)
    parameter = Parameter(
        option.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if default is MISSING else default,
        annotation=kind | None if default is None else kind,
    )
    text += _defaults_of(option.name, selection.defaults)
    panel = "Machine" if option.name in MACHINE else " ".join(words)
    return _described(parameter, metavar, text, panel)


def _defaults_of(name: str, configurations: Mapping[str, Any]) -> str:
    """Sentence on the default of a field: the first configuration's, and those that differ."""
    texts = {}
    for key, config in configurations.items():
        if (value := getattr(config, name)) is not None:
            texts[key] = ("no", "yes")[value] if isinstance(value, bool) else str(value).strip("()")
    if not texts:
        return ""
    first, *others = texts.items()
    different = [f"{key}: {text}" for key, text in others if text != first[1]]
    return f" Default: {first[1]}" + (f" ({', '.join(different)})." if different else ".")


def _take(given: Values, selections: Sequence[Fields]) -> Values:
    """Take the values of these options out of `given`, by field."""
    return {
        option.name: _value(option, value)
        for selection in selections
        for option in selection
        if (value := given.pop(option.name)) is not None
    }


def _value(option: Field[Any], typed: Any) -> Any:
    """The value of a field from what was typed: tuples and mappings are typed as text."""
    kind: Any = without_none(option.type)
    value: Any
    if get_origin(kind) is tuple:
        items = re.split("[,/]" if int in get_args(kind) else ",", typed)
        form, value = LIST, [] if typed == "none" else [item.strip() for item in items]
    elif get_origin(kind) is Mapping:
        pairs = (text if "=" in text else f"{text}=" for text in typed)
        form, value = MAPPING, dict(pair.rpartition("=")[::2] for pair in pairs)
    elif kind is float and isinstance(typed, str):
        form, value, kind = RATE, None if typed == "off" else typed, option.type
    else:
        return typed
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        got = typed if isinstance(typed, str) else ", ".join(typed)
        problem = error.errors()[0]["msg"].lower()
        raise UsageError(f"`{option.name}` takes {form}, got {got!r} ({problem})") from None


def check_not_input(out: Path, inputs: Iterable[Path], *, option: str = "out") -> None:
    """Check that no file that is read would be replaced, also under the name of a link."""
    if out.exists() and any(path.exists() and path.samefile(out) for path in inputs):
        raise UsageError(f"{out}: is read, and would be replaced; choose another `{option}`")
