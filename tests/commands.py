"""What tests of the command line share."""

import json
import subprocess

from misgiving.checkpoint import SEALED
from misgiving.files import write_json
from misgiving.manifests import seal


def one_line(error):
    """The line that an explained failure consists of, after lines on epochs that are finished."""
    lines = [line for line in error.splitlines() if line.strip() and line[:6] != "epoch "]
    assert len(lines) == 1, error
    return lines[0]


def killed(process, moment):
    """Kill a process after a moment; False if it had ended before."""
    try:
        process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


def reseal(run, **changes):
    """Make a run, some of whose files or values were changed on purpose, pass for untouched."""
    if changes:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        write_json(run / "config.json", {**config, **changes})
    seal(run, SEALED)
