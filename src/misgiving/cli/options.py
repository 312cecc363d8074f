"""Options of commands, made by cyclopts from signatures, docstrings and dataclasses.

An option is called as its parameter or field, with hyphens; its help is the text in `Args:` of the
command or in `Attributes:` of the dataclass.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature, unwrap
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args, get_origin

import cyclopts
from cyclopts import App, Argument, ArgumentCollection, CoercionError, Group, Token
from cyclopts.config import Dict
from cyclopts.validators import Number

from misgiving import errors
from misgiving.errors import ExplainedError, UsageError, explain_damage, without_none
from misgiving.files import check_writable

COMMAND: ContextVar[Sequence[Argument]] = ContextVar("COMMAND", default=())
"""Arguments and options of the command that runs, and what was typed for each."""

SET_BY_TRAIN = ("split", "keep")  # options of `train` that messages of other commands refer to
MAX_CHOICES = 30  # letters of choices that are shown in place of CHOICE
LIST, MAPPING, RATE = "A,B,...", "CLASS=NUMBER...", "NUMBER|off"  # how such values are typed

BRIEF = (
    *("data", "out", "overwrite", "ood", "trials", "models", "jobs", "recipe", "image_size"),
    *("augment", "split", "on_bad_image", "backbone", "weights", "pretrained", "epochs"),
    *("batch_size", "learning_rate", "seed", "device", "classes", "views", "config", "help_all"),
)
"""Parameters that --help shows where there is --help-all."""

Values = dict[str, Any]
"""Options that are given, by field name, annotated with the `Fields` that they are for."""

Run = Annotated[Path, cyclopts.Parameter(metavar="RUN")]
Folder = Annotated[Path, cyclopts.Parameter(metavar="FOLDER")]
File = Annotated[Path, cyclopts.Parameter(metavar="FILE")]

PREDICTION_FILE = "file of predictions: .csv, .npz or .parquet."
DATA = (
    "digits, folder:FOLDER (a folder per class, also in train, val and test), table:FILE (columns "
    "path, label, optional set, patient, lesion or group), isic2019:FOLDER, ham10000:FOLDER (the "
    "official layouts) or medmnist:FILE.npz."
)
OPINION = (
    "Another model of the same classes{}, which helps to judge the answers and never changes them. "
    "Default name: that of the folder{}. Can be repeated."
)
Data = Annotated[str, cyclopts.Parameter("DATA", help=DATA)]
DataOrNone = Annotated[
    str | None,
    cyclopts.Parameter("DATA", help=f"For a RUN: {DATA} Default: the data that it was trained on."),
]
DataOrPredictions = Annotated[
    str, cyclopts.Parameter("DATA|PREDICTIONS", help=f"{DATA} Or a {PREDICTION_FILE}")
]
RunOrPredictions = Annotated[
    Path,
    cyclopts.Parameter(
        "RUN|PREDICTIONS", help=f"A folder that train wrote, or a {PREDICTION_FILE}"
    ),
]
SecondOpinion = Annotated[
    list[str] | None,
    cyclopts.Parameter(
        metavar="[NAME=]RUN|PREDICTIONS",
        help=OPINION.format(", or its predictions for the same images", " or file"),
    ),
]
OpinionOfRun = Annotated[
    list[str] | None, cyclopts.Parameter(metavar="[NAME=]RUN", help=OPINION.format("", ""))
]
Cache = Annotated[
    Path | None,
    cyclopts.Parameter(
        metavar="FOLDER",
        help="Folder for prepared images. Default: misgiving in the user's cache folder.",
    ),
]
Seed = Annotated[int, cyclopts.Parameter(validator=Number(gte=0, lt=2**32))]  # as numpy takes it
PoolOrNone = Annotated[
    Path | None, cyclopts.Parameter("POOL", help="For a RUN: a folder of images without labels.")
]
OodDetector = Literal[
    "knn_layers", "knn", "knn_taps", "mahalanobis", "mahalanobis++", "vim", "msp", "energy",
    "max_logit", "entropy", "gen", "max_logit_norm", "predicted_loss",
]  # fmt: skip
Looks = Annotated[tuple[int, ...], cyclopts.Parameter(metavar="N,N,...", n_tokens=1)]
Count = Annotated[int | None, cyclopts.Parameter(validator=Number(gte=1))]


def option(name: str, value: object = None) -> str:
    """The option or argument of the command that runs for a parameter, as it would be typed."""
    for argument in COMMAND.get():
        if argument.field_info.name == name and not argument.children:
            if isinstance(value, Mapping):
                value = " ".join(shlex.quote(f"{key}={x:g}") for key, x in value.items())
            if isinstance(value, bool):
                return argument.negatives[0] if not value and argument.negatives else argument.name
            return argument.name if value is None else f"{argument.name} {value}"
    if name in SET_BY_TRAIN:
        return f"train --{name}" if value is None else f"train --{name} {value}"
    return str(errors.Parameter(name, value))


def message_of(error: ExplainedError) -> str:
    """Message of a failure that names options in place of parameters."""
    return "".join(
        option(*part) if isinstance(part, errors.Parameter) else str(part) for part in error.args
    )


def check_options(case: str, *, needed: Sequence[str] = (), unused: Sequence[str] = ()) -> None:
    """Check the parameters of the command that runs for a case, such as "with --ray"."""
    given = {argument.field_info.name for argument in COMMAND.get() if argument.tokens}
    for name in unused:
        if name in given:
            raise UsageError(errors.Parameter(name), f" has no effect {case}; leave it out")
    for name in needed:
        if name not in given:
            raise UsageError(errors.Parameter(name), f" is required {case}")


def check_not_input(out: Path, inputs: Iterable[Path], *, parameter: str = "out") -> None:
    """Check that no file that is read would be replaced, also under the name of a link."""
    if out.exists() and any(path.exists() and path.samefile(out) for path in inputs):
        raise UsageError(
            f"{out}: is read, and would be replaced; choose another ", errors.Parameter(parameter)
        )


def check_files(inputs: Iterable[Path], *, overwrite: bool, **files: Path | None) -> None:
    """Check that files can be written, by the parameters that name them."""
    for name, file in files.items():
        if file is not None:
            check_writable(file, parameter=name)
            check_not_input(file, inputs, parameter=name)
            if file.exists() and not overwrite:
                raise UsageError(
                    *(f"{file}: exists; choose another ", errors.Parameter(name)),
                    ", or --overwrite",
                )


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Reading of images, and the device of a model.

    Attributes:
        strict: Fail if files of DATA are ignored, or class folders have no images.
        on_bad_image: If images cannot be read: list all of them and fail, or continue without them.
        device: Device to compute on.
    """

    strict: bool = False
    on_bad_image: Literal["fail", "skip"] = "fail"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True)
class Fields:
    """Fields of a configuration that become options of a command.

    Args:
        config: The dataclass.
        names: Names of the fields; all if empty.
        defaults: Configurations by name, whose values the help gives as defaults. Without any, it
            gives those of the fields.
    """

    config: type
    names: tuple[str, ...] = ()
    defaults: Mapping[str, Any] | None = None

    def options(self, *, brief: bool) -> Any:
        """The type of what is given of the options."""
        options = {}
        for each in fields(self.config):
            if not self.names or each.name in self.names:
                shown = cyclopts.Parameter(show=not brief or each.name in BRIEF)
                options[each.name] = Annotated[self._option(each), shown]
        given = TypedDict(self.config.__name__, options, total=False)  # type: ignore[misc]
        given.__doc__ = self.config.__doc__
        words = re.findall("[A-Z][a-z]+", self.config.__name__.removesuffix("Config"))
        panel = Group.create_ordered(" ".join(words).capitalize())
        return Annotated[given, cyclopts.Parameter("*", group=panel)]

    def _option(self, each: Field[Any]) -> Any:
        """The type of a field, and how its values are typed."""
        kind, *own = _parts(each.type)
        value = without_none(kind)
        about: Values = {"show_default": self._default(each) or False}
        form = get_origin(value) or value
        if form is Literal and len(names := "|".join(map(str, get_args(value)))) <= MAX_CHOICES:
            about |= {"metavar": names, "show_choices": False}
        elif form is tuple:
            about |= {"metavar": LIST, "n_tokens": 1}
        elif form is Mapping:
            about |= {"n_tokens": 1, **MAPPINGS[get_args(value)[1]]}
            value = Iterable[str]
        elif form is float and value is not kind and each.default is not None:
            value = kind
            about |= {"metavar": RATE, "converter": _rate}
        elif form is bool and (each.default or self.defaults is not None):
            about["negative"] = f"--no-{each.name.replace('_', '-')}"
        return Annotated[value, cyclopts.Parameter(**about), *own]

    def _default(self, each: Field[Any]) -> str:
        """Default in the help: the first configuration's, and those that differ."""
        if self.defaults is None:
            return shown(each.default) or ""
        values = {key: getattr(config, each.name) for key, config in self.defaults.items()}
        texts = {key: shown(value) or "no" for key, value in values.items() if value is not None}
        first = next(iter(texts.values()), "")
        others = [f"{key}: {text}" for key, text in texts.items() if text != first]
        return f"{first} ({', '.join(others)})" if others else first


def command(function: Callable[..., None], *, brief: bool = False) -> Callable[..., None]:
    """Make a command of a function.

    A parameter whose type is a dataclass becomes one option for each field, and receives the filled
    dataclass; one of type `Annotated[Values, Fields(...)]` receives what is given. A `brief`
    command shows only the options of `BRIEF` in --help.
    """
    makers, parameters = {}, []
    more = signature(_more, eval_str=True).parameters.values() if brief else ()
    for parameter in (*signature(function, eval_str=True).parameters.values(), *more):
        name, (kind, *notes) = parameter.name, _parts(parameter.annotation)
        if selected := [note for note in notes if isinstance(note, Fields)] or is_dataclass(kind):
            makers[name] = kind
            chosen = Fields(kind) if selected is True else selected[0]
            annotation = chosen.options(brief=brief)
            parameter = parameter.replace(annotation=annotation, default={})  # pydantic checks it
        elif brief and name not in BRIEF and parameter.kind is Parameter.KEYWORD_ONLY:
            hidden = cyclopts.Parameter(show=False)
            parameter = parameter.replace(annotation=Annotated[parameter.annotation, hidden])
        parameters.append(parameter)

    @wraps(function)
    def run(*arguments: Any, config: Any = None, help_all: Any = None, **given: Any) -> None:
        del config, help_all  # `read_arguments` has done what they ask for
        made = {name: make(**given.pop(name, None) or {}) for name, make in makers.items()}
        function(*arguments, **made, **given)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _more(
    *,
    config: Annotated[
        Path | None,
        cyclopts.Parameter(
            metavar="FILE",
            help="TOML file of options, such as `batch-size = 64`; the command line wins.",
        ),
    ] = None,
    help_all: Annotated[bool, cyclopts.Parameter(help="Show all options.")] = False,
) -> None:
    """Options of a command with many."""


def _parts(annotation: Any) -> tuple[Any, ...]:
    """A type, and what it is annotated with."""
    return get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)


def shown(value: object) -> str | None:
    """A default as the help shows it; None for none, and for an option that is off."""
    if value is None or value is False or value is MISSING:
        return None
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "yes" if value is True else str(value)


def read(kind: Any, tokens: Sequence[Token]) -> Any:
    """A value as it was typed: whole numbers are not rounded, and elements have commas."""
    if kind is int:
        return _validated(int, tokens[-1].value, tokens, "a whole number")
    if get_origin(kind) is not tuple:
        return cyclopts.convert(kind, tokens)
    last = tokens[-1:] if tokens[0].source == "cli" else tokens  # a file has one for each
    text = ",".join(token.value for token in last)
    items = re.split("[,/]" if int in get_args(kind) else ",", text) if text != "none" else []
    return _validated(kind, [item.strip() for item in items], tokens, LIST)


def _numbers(_: Any, tokens: Sequence[Token]) -> Any:
    """Numbers by class."""
    pairs = dict(token.value.rpartition("=")[::2] for token in tokens)
    return _validated(dict[str, float], pairs, tokens, MAPPING)


def _mapping(kind: Any, form: str, remedy: str) -> Callable[..., Any]:
    """A converter of a file to a mapping: a JSON object, or lines of a key and a value."""

    def read_mapping(_: Any, tokens: Sequence[Token]) -> Any:
        from misgiving.csv_tables import csv_rows
        from misgiving.files import read_json

        path = Path(tokens[-1].value)
        try:
            if path.suffix == ".json":
                content = read_json(path, remedy=remedy)
            else:
                with explain_damage(path, remedy=remedy), path.open(encoding="utf-8-sig") as file:
                    content = dict(cells for _, cells in csv_rows(file) if cells)
        except ExplainedError as error:  # cyclopts would show the first part alone
            raise ValueError(message_of(error)) from error
        return _validated(kind, content, tokens, form)

    return read_mapping


TEXTS = dict[str, str], "texts by name", "give lines such as MEL,melanoma, or a JSON object"
LISTS = (
    *(dict[str, tuple[str, ...]], "lists of classes by name"),
    'give a file such as {"benign": ["NV", "BKL"], ...}',
)
MAPPINGS: dict[Any, Values] = {
    float: {"metavar": MAPPING, "converter": _numbers, "allow_leading_hyphen": True},
    str: {"metavar": "FILE", "converter": _mapping(*TEXTS)},
    tuple[str, ...]: {"metavar": "FILE.json", "converter": _mapping(*LISTS)},
}
"""Settings of an option that takes a mapping, by the type of its values."""


def _rate(_: Any, tokens: Sequence[Token]) -> Any:
    """A number, or None for `off`."""
    typed = tokens[-1].value
    return _validated(float | None, None if typed == "off" else typed, tokens, RATE)


def _validated(kind: Any, value: Any, tokens: Sequence[Token], form: str) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        typed, source = ", ".join(token.value for token in tokens), tokens[0].source
        place = "" if source == "cli" else f" in {source}"
        message = f"{form} is expected, got {typed!r}{place}"
        raise CoercionError(msg=message, token=tokens[0]) from None


def read_arguments(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Remember the arguments of the command that runs, with those in the file of --config."""
    COMMAND.set(arguments)
    given = {argument.field_info.name: argument.tokens for argument in arguments}
    if given.get("help_all") and app.default_command is not None:
        whole = App(
            " ".join(("misgiving", *commands)), help_flags=[], version_flags=[], **COMMAND_SETTINGS
        )
        whole.default(command(unwrap(app.default_command)))
        whole.help_print([])
        raise SystemExit
    for token in given.get("config", ()):
        with explain_damage(Path(token.value), remedy="give a TOML file of options"):
            content = tomllib.loads(Path(token.value).read_text(encoding="utf-8"))
        options = Dict(content, source=token.value, use_commands_as_keys=False)
        options(app, commands, arguments)


COMMAND_SETTINGS: dict[str, Any] = {
    "help_format": "markdown",
    "group_parameters": Group.create_default_parameters("Options"),
    "default_parameter": cyclopts.Parameter(
        converter=read,
        allow_repeating=True,  # the last counts
        show_default=shown,
        negative_bool=(),
        negative_iterable=(),
        json_list=False,
    ),
}
"""Settings of a command as an app of cyclopts."""
