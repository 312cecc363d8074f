"""Write the reference of Python and of the command line, as `make reference` does.

Each page keeps what stands above the mark. Below are signatures and docstrings, which are read from
the source without running it, or the help of each command.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import misgiving
from misgiving.cli import app
from misgiving.reproduction.tables import SCHEMAS

ROOT = Path(__file__).parents[1]
MARK = "<!-- `make reference` writes what follows -->"
TABLES = "reproduction.tables"
SECTIONS = {
    "Decide": ("Deferral", "SelectiveClassifier", "draw", "Decisions", "Decision", "Bundle"),
    "Predictions and measures": ("Predictions", "evaluate", "write_report", "ood_metrics"),
    "Train": (
        *("JointClassifier", "Output", "LossEstimator", "attach", "ranking_loss"),
        *("joint_objective", "TrainingConfig", "train", "load_dataset", "predict", "load", "save"),
    ),
    "Detect out-of-distribution images": ("Odin", "tune_odin"),
    "Columns of tables": ("SuspectLabel", "SCHEMAS"),
}
HOMES = {
    **misgiving._HOMES,
    "Decisions": "deferral.decisions",
    "write_report": "report.evaluation",
    "SuspectLabel": "evaluation.suspect_labels",
    "SCHEMAS": TABLES,
}
PART = re.compile(r"^(Args|Attributes|Returns|Raises|Warns):\n", re.MULTILINE)
ENTRY = re.compile(r"^(\*{0,2}\w+): ", re.MULTILINE)
EXAMPLE = re.compile(r"^>>> .*(?:\n\S.*)*", re.MULTILINE)
WIDTH = 88


def main() -> None:
    """Write both pages."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """The text of each page that is written."""
    commands = app.generate_docs(include_hidden=True, flatten_commands=True, heading_level=2)
    below = {"api.md": "\n\n".join(filter(None, python())), "command_line.md": commands.strip()}
    paths = {ROOT / "docs" / "reference" / name: text for name, text in below.items()}
    above = {path: path.read_text(encoding="utf-8").partition(MARK)[0] for path in paths}
    return {path: f"{above[path]}{MARK}\n\n{text}\n" for path, text in paths.items()}


def python() -> Iterator[str]:
    """The reference of each name, by section."""
    for title, names in SECTIONS.items():
        yield f"## {title}"
        for name in names:
            yield f"### {name}"
            yield from described(name, HOMES[name])


def described(name: str, home: str) -> Iterator[str]:
    """Signature and docstring of a class or a function, with its members, or columns of tables."""
    place = ROOT / "src" / "misgiving" / home.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if name == "SCHEMAS":
        yield "\n".join(
            f"- `{file}`: {', '.join(f'`{column}`' for column in columns)}"
            for file, columns in SCHEMAS.items()
        )
        at = next(i for i, node in enumerate(body) if "SCHEMAS =" in ast.unparse(node)[:9])
        yield inspect.cleandoc(ast.literal_eval(body[at + 1].value))  # type: ignore[attr-defined]
        return
    node = next(each for each in body if getattr(each, "name", None) == name)
    if name not in misgiving.__all__:
        yield f"`misgiving.{home}.{name}`"
    if isinstance(node, ast.ClassDef):
        yield from described_class(node)
    elif isinstance(node, ast.FunctionDef):
        yield from described_function(node, name)


def described_class(node: ast.ClassDef) -> Iterator[str]:
    """How a class is made, its docstring and fields, its properties and its methods."""
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    constructor = next((each for each in functions if each.name == "__init__"), None)
    yield signature(node.name, parameters(constructor.args) if constructor else [*fields(node)])
    yield markdown(node)
    yield "\n".join(f"- `{name}`: {text}" for name, text in field_descriptions(node))
    public = [each for each in functions if each.name[0] != "_" and ast.get_docstring(each)]
    properties = [each for each in public if "property" in decorators(each)]
    yield "\n".join(f"- `{each.name}` (property): {summary(each)}" for each in properties)
    for each in public:
        if each not in properties:
            yield f"#### {node.name}.{each.name}"
            yield from described_function(each, f"{node.name}.{each.name}")


def described_function(node: ast.FunctionDef, name: str) -> Iterator[str]:
    """Signature and docstring of a function."""
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    yield signature(name, parameters(node.args), returned)
    yield markdown(node)


def decorators(node: ast.FunctionDef) -> str:
    """The names of decorators."""
    return " ".join(map(ast.unparse, node.decorator_list))


def summary(node: ast.FunctionDef) -> str:
    """The first paragraph of a docstring."""
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())


def fields(node: ast.ClassDef) -> Iterator[str]:
    """Parameters that a class has by its annotated fields."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and "init=False" not in ast.unparse(each):
            yield re.sub(r" = Field\(.*", "", ast.unparse(each), flags=re.DOTALL)


def field_descriptions(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Names and descriptions of the fields that have one."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Call):
            for keyword in each.value.keywords:
                if keyword.arg == "description":
                    yield ast.unparse(each.target), ast.literal_eval(keyword.value)


def parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter with annotation and default, as it is written."""
    plain = [each for each in arguments.args if each.arg not in ("self", "cls")]
    required: list[None] = [None] * (len(plain) - len(arguments.defaults))
    pairs = [*zip(plain, [*required, *arguments.defaults], strict=True)]
    texts = [with_default(*pair) for pair in pairs]
    if arguments.vararg:
        texts.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        texts.append("*")
    texts += map(with_default, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        texts.append(f"**{ast.unparse(arguments.kwarg)}")
    return texts


def with_default(argument: ast.arg, default: ast.expr | None) -> str:
    """A parameter as it is written."""
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(default)}" if default else "")


def signature(name: str, given: list[str], returned: str = "") -> str:
    """A signature, with a line for each parameter where it is long."""
    line = f"{name}({', '.join(given)}){returned}"
    if len(line) > WIDTH:
        line = f"{name}(\n" + "".join(f"    {each},\n" for each in given) + f"){returned}"
    return f"```py\n{line}\n```"


def markdown(node: ast.ClassDef | ast.FunctionDef) -> str:
    """A docstring of Google's style as Markdown."""
    text, *parts = PART.split(ast.get_docstring(node) or "")
    blocks = [EXAMPLE.sub(r"```pycon\n\g<0>\n```", text.strip())]
    for title, part in zip(parts[::2], parts[1::2], strict=True):
        section, _, after = part.partition("\n\n")
        section = inspect.cleandoc(section)
        entries = ENTRY.split(section)
        if title == "Returns" or len(entries) == 1:
            blocks.append(f"{title}: {' '.join(section.split())}")
        else:
            pairs = zip(entries[1::2], entries[2::2], strict=True)
            lines = [f"- `{name}`: {' '.join(said.split())}" for name, said in pairs]
            blocks.append(f"{title.replace('Args', 'Parameters')}:\n\n" + "\n".join(lines))
        blocks.append(EXAMPLE.sub(r"```pycon\n\g<0>\n```", inspect.cleandoc(after)))
    return "\n\n".join(block for block in blocks if block)


if __name__ == "__main__":
    main()
