"""Pages of the site that are made while it is built, and links to files outside of `docs`.

The scripts of the gallery are run, and shown with what they print and draw. Examples, results of
the benchmarks and the changelog become pages. The study stays in the repository.
"""

import ast
import io
import re
import runpy
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from posixpath import dirname, normpath, relpath

import matplotlib
from cycler import cycler
from matplotlib import pyplot
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from misgiving.report.figures import FILLED, OUTLINES, PANEL, STYLE

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+\.(?:md|py|png))(#[^)\s]*)?\)")
STUDY = re.compile(r"\[([^\]]+)\]\([./]*(study/\w+\.md)\)")
GALLERY = ROOT / "docs" / "gallery"
CARD = re.compile(r"\[(.+)\]\((\w+)\.py\)")
FOLDERS = {  # of the repository, and of the site; the last takes all others
    "benchmarks/": "measurements/",
    "examples/": "examples/",
    "docs/": "",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are made of files outside of `docs`."""
    for path, content in (*_pages(), *_gallery()):
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show figures in the gallery, and redirect links to files outside of `docs`."""
    del config, files
    if page.file.src_uri == "gallery/index.md":
        markdown = CARD.sub(r"[![](\2.png) \1](\2.md)", markdown)
    markdown = STUDY.sub(r"\1 (`\2` in the repository)", markdown)
    return LINK.sub(lambda link: _redirected(link, page.file.src_uri), markdown)


def _pages() -> Iterator[tuple[str, str]]:
    files = sorted((ROOT / "examples").glob("*.py"))
    examples = {f"{path.stem}.md": _example(path) for path in files}
    yield from ((f"examples/{name}", text) for name, text in examples.items())
    titles = [(text.partition("\n")[0].strip("# "), name) for name, text in examples.items()]
    links = "\n".join(f"- [{title}]({name})" for title, name in titles)
    yield "examples/index.md", f"# Examples\n\nEach runs in less than a minute.\n\n{links}\n"
    yield "measurements/results.md", (ROOT / "benchmarks" / "results.md").read_text()
    yield "changelog.md", (ROOT / "CHANGELOG.md").read_text()


def _gallery() -> Iterator[tuple[str, str | bytes]]:
    """A page and a figure of each script."""
    matplotlib.use("Agg")
    for path in sorted(GALLERY.glob("*.py")):
        name, text = path.stem, path.read_text()
        printed, figure = _run(path)
        *lines, seen = printed.strip().split("\n")
        title, _, introduction = (ast.get_docstring(ast.parse(text)) or "").partition("\n")
        cells = "\n\n".join(map(_cell, re.split(r"^# %% ?", text, flags=re.MULTILINE)[1:]))
        output = "```text\n{}\n```".format("\n".join(lines)) if lines else ""
        page = f"# {title}\n\n{introduction.strip()}\n\n![{seen}]({name}.png)\n\n{seen}\n\n"
        yield f"gallery/{name}.md", f"{page}## The script\n\n{cells}\n\n{output}\n"
        yield f"gallery/{name}.png", figure


def _cell(text: str) -> str:
    """The comment at the beginning of a cell as text, and its code."""
    comment, _, code = text.partition("\n")
    while code.startswith("# "):
        line, _, code = code.partition("\n")
        comment += line.removeprefix("#")
    return f"{comment}\n\n```python\n{code.strip()}\n```"


def _run(path: Path) -> tuple[str, bytes]:
    """What a script prints and draws."""
    printed, figure = io.StringIO(), io.BytesIO()
    colours = cycler(color=[FILLED, *OUTLINES])
    style = STYLE | {"figure.figsize": PANEL, "axes.prop_cycle": colours}
    with redirect_stdout(printed), warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.simplefilter("ignore")
        runpy.run_path(str(path))
        pyplot.savefig(figure, dpi=150, bbox_inches="tight")
        pyplot.close("all")
    return printed.getvalue(), figure.getvalue()


def _example(path: Path) -> str:
    """A script as Markdown that begins with a title."""
    text = path.read_text()
    title = text.partition("\n")[0].strip('#". ')
    return f"# {title}\n\n```python\n{text}```\n"


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
            return moved if to_repository else re.sub(r"\.py$", ".md", moved)
    return path
