"""Pages of the site that are made while it is built, and links to files outside of `docs`.

Examples, results of the benchmarks and the changelog become pages. The reference of the command
line is written from the commands themselves. The study stays in the repository.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from misgiving.cli import app
from misgiving.deferral.decisions import OF_CLASS, Decision

ROOT = Path(__file__).parents[1]
COMMANDS = "<!-- commands -->"
COLUMNS = "<!-- columns of decisions -->"
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+\.(?:md|py|ipynb|png))(#[^)\s]*)?\)")
STUDY = re.compile(r"\[([^\]]+)\]\([./]*(study/\w+\.md)\)")
FOLDERS = {  # of the repository, and of the site; the last takes all others
    "benchmarks/": "measurements/",
    "examples/": "examples/",
    "docs/": "",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside of `docs`."""
    for path, text in _pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the reference of the command line, and redirect links to files outside of `docs`."""
    del config, files
    if COMMANDS in markdown:
        commands = app.generate_docs(include_hidden=True, flatten_commands=True, heading_level=2)
        markdown = markdown.replace(COMMANDS, commands)
    markdown = markdown.replace(COLUMNS, "\n".join(_columns()))
    markdown = STUDY.sub(r"\1 (`\2` in the repository)", markdown)
    return LINK.sub(lambda link: _redirected(link, page.file.src_uri), markdown)


def _columns() -> Iterator[str]:
    """The columns of a table of decisions."""
    yield "| column | meaning |\n|---|---|\n| `path` or `id` | The image. |"
    for name, field in Decision.model_fields.items():
        shown = f"{OF_CLASS}CLASS" if name == "probabilities" else name
        yield f"| `{shown}` | {field.description} |"
    yield "| `unreadable` | Why an image cannot be read; with `--on-bad-image skip`. |"


def _pages() -> Iterator[tuple[str, str]]:
    files = sorted(path for kind in ("*.py", "*.ipynb") for path in (ROOT / "examples").glob(kind))
    examples = {f"{path.stem}.md": _example(path) for path in files}
    yield from ((f"examples/{name}", text) for name, text in examples.items())
    titles = [(text.partition("\n")[0].strip("# "), name) for name, text in examples.items()]
    links = "\n".join(f"- [{title}]({name})" for title, name in titles)
    yield "examples/index.md", f"# Examples\n\nEach runs in less than a minute.\n\n{links}\n"
    yield "measurements/results.md", (ROOT / "benchmarks" / "results.md").read_text()
    yield "changelog.md", (ROOT / "CHANGELOG.md").read_text()


def _example(path: Path) -> str:
    """A script or a notebook as Markdown that begins with a title."""
    text = path.read_text()
    if path.suffix == ".py":
        title = text.partition("\n")[0].strip('#". ')
        return f"# {title}\n\n```python\n{text}```\n"
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(
        source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells
    )


def _redirected(link: re.Match[str], source: str) -> str:
    """Link to the page that a file of the repository has become."""
    folder = dirname(_moved(source, to_repository=True))
    target = _moved(normpath(f"{folder}/{link[1]}"), to_repository=False)
    return f"]({relpath(target, dirname(source) or '.')}{link[2] or ''})"


def _moved(path: str, *, to_repository: bool) -> str:
    """The file of a page, or the page of a file."""
    for file, page in FOLDERS.items():
        old, new = (page, file) if to_repository else (file, page)
        if path.startswith(old):
            moved = new + path.removeprefix(old)
            return moved if to_repository else re.sub(r"\.(py|ipynb)$", ".md", moved)
    return path
