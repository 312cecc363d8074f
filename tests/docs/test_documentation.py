import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from misgiving.cli import app

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"^(?:\.venv/bin/)?misgiving (.+?)(?:  +#.*)?$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def commands():
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            block = block.replace("\\\n", " ").replace("$TRIAL", "0").replace("$MODEL", "vanilla")
            for line in COMMAND.findall(block):
                yield pytest.param(line, id=f"{page.name}: {line[:40]}")


def links():
    for page in PAGES:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target:
                yield pytest.param(page.parent / target, id=f"{page.name}: {target}")


COMMANDS, LINKS = list(commands()), list(links())


def test_the_readme_has_fewer_than_900_words():
    assert len(README.split()) < 900


def examples(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_readme_example_computes_the_joint_objective():
    (example,) = (one for one in examples(README) if "joint_objective" in one)
    names = {}
    exec(example, names)
    objective, weight = names["objective"], 0.5
    expected = objective.primary + weight * objective.auxiliary
    assert objective.total.item() == pytest.approx(expected.item())
    assert all(p.grad is not None for p in names["model"].loss_estimator.parameters())


def test_the_readme_makes_a_policy_of_a_table(tmp_path, monkeypatch, misgiving):
    (example,) = (one for one in examples(README) if "predictions.csv" in one)
    assert len(example.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 201
    lines = [line for line in COMMAND.findall(README) if "predictions.csv" in line]
    assert [line.split()[0] for line in lines] == ["calibrate", "evaluate"]
    for line in lines:
        code, _, error = misgiving(*shlex.split(line))
        assert code == 0, error
    assert (
        "Certified: at most 10 %"
        in misgiving("calibrate", *shlex.split(lines[0])[1:], "--overwrite")[2]
    )


def test_the_examples_of_the_page_on_predictions_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "predictions.md").read_text(encoding="utf-8")
    names = {}
    for example in examples(page):
        exec(example, names)
    assert names["again"].policy_ == names["deferral"].policy_


@pytest.mark.parametrize("line", COMMANDS)
def test_every_documented_command_is_accepted_by_the_command_line(line):
    name, *arguments = shlex.split(line)
    command = get_command(app).commands[name]
    if name == "data":
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, arguments, resilient_parsing=False)
    assert context.params


@pytest.mark.parametrize("path", LINKS)
def test_every_link_leads_to_a_file(path):
    assert path.exists()


def test_commands_and_links_are_found():
    assert len(COMMANDS) > 15
    assert len(LINKS) > 15
