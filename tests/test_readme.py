import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from misgiving.cli import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(
    r"^(?:\.venv/bin/)?misgiving (.+?)(?:  +#.*)?$", README.replace("\\\n", " "), re.MULTILINE
)


def test_there_is_an_example_of_at_most_15_lines():
    (example,) = EXAMPLES
    assert len(example.splitlines()) <= 15


def test_the_example_trains_and_orders_images_by_doubt():
    names = {}
    exec(EXAMPLES[0], names)
    assert sorted(names["doubtful_first"].tolist()) == list(range(256))
    assert names["objective"].auxiliary > 0


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_written_as_the_command_line_takes_it(line):
    name, *arguments = shlex.split(line)
    command = get_command(app).commands[name]
    if name == "data":
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, arguments, resilient_parsing=False)
    assert context.params


def test_commands_are_found():
    assert len(COMMANDS) == 15
