"""Run all comparisons of speed, one after the other, and write a table of them.

    python benchmarks/run_all.py [--scripts FOLDER] [--out benchmarks/results.md]

These are the scripts in this folder that report through `side_by_side`. The table replaces the
section "Speed" of the page. It names scripts that fail or report nothing; the exit status is then
1.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from side_by_side import RECORD, Comparison, Reading, read_record

from misgiving.files import write_text

HERE = Path(__file__).resolve().parent
HEADER = ("what", "against", "median (lowest to highest)", "must reach", "reached")
SECTION = re.compile(r"^## Speed\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")


class Outcome(NamedTuple):
    """Reports of a script, and the reason of a failure, empty for none."""

    script: str
    results: list[Comparison | Reading]
    failure: str


def main() -> None:
    """Run the scripts, write the table, and exit with 1 if one has failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", type=Path, default=HERE, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=HERE / "results.md", metavar="FILE")
    options = parser.parse_args()
    outcomes = [run(script) for script in speed_scripts(options.scripts)]
    page, speed = options.out.read_text(encoding="utf-8"), section(outcomes, os.environ)
    write_text(options.out, SECTION.sub(lambda _: speed, page))
    failed = [outcome.script for outcome in outcomes if outcome.failure]
    print(f"wrote {options.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(bool(failed))


def speed_scripts(folder: Path) -> list[Path]:
    """The scripts of a folder that report through `side_by_side`, by name."""
    return [
        script
        for script in sorted(folder.glob("*.py"))
        if script.name != Path(__file__).name
        and "from side_by_side import" in script.read_text(encoding="utf-8")
    ]


def run(script: Path) -> Outcome:
    """Run one script with its defaults; what it has reported before it failed is kept."""
    print(f"== {script.name}", flush=True)
    with TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        record.touch()
        environment = {**os.environ, RECORD: str(record)}
        status = subprocess.run([sys.executable, str(script)], env=environment).returncode
        results = read_record(record)
    failure = f"exit status {status}" if status else "" if results else "reported nothing"
    return Outcome(script.name, results, failure)


def section(outcomes: Sequence[Outcome], environment: Mapping[str, str]) -> str:
    """What was measured where, and the table, in Markdown."""
    about = "; ".join(_machine(environment))
    table = "\n".join(_table(outcomes))
    return f"## Speed\n\n`make bench` times both sides in turn. {about}.\n\n{table}\n\n"


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor by its model."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, models), platform.processor() or platform.machine())


def _machine(environment: Mapping[str, str]) -> Iterator[str]:
    yield f"{processor()}, {os.cpu_count()} cores"
    yield ", ".join(f"{name}: {environment.get(name, 'not set')}" for name in SETTINGS)
    libraries = [f"{name} {version(name.lower())}" for name in ("torch", "numpy", "Pillow")]
    yield ", ".join([f"Python {platform.python_version()}", *libraries])
    yield f"{datetime.now(UTC):%Y-%m-%d}"


def _table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield _row(HEADER)
    yield _row(["---"] * len(HEADER))
    for outcome in outcomes:
        yield from map(_row, map(_cells, outcome.results))
        if outcome.failure:
            yield _row([outcome.script, "", "", "", f"FAILED ({outcome.failure})"])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _cells(result: Comparison | Reading) -> list[str]:
    against = result.against if isinstance(result, Comparison) else ""
    return [result.what, against, result.measured, result.aim, "yes" if result.reached else "NO"]


if __name__ == "__main__":
    main()
