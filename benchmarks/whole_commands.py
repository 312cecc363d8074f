"""Seconds of whole commands: starting, and `reproduce`, `calibrate` and `collect` on the digits.

    python benchmarks/whole_commands.py [--trials 5] [--rounds 3] [--starts 15]

`misgiving --help` and `import misgiving` run in fresh processes, in turn with a bare `python -c
pass`, whose time is in the notes; it fails if torch is imported.

`reproduce` runs once, with as many processes as there are cores. Its bound is 7.5 minutes (5.5 for
three trials) less 30 seconds for `make reproduce` to install. The others run again and again on
what it has made, each in a process of its own; `collect`, which computes the intervals, is timed
without the start of that process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from side_by_side import Reading, alternate

HELP = "import sys; sys.argv = ['misgiving', '--help']; from misgiving.cli import run; run()"
CHECKED = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); "
COMMAND = (sys.executable, "-m", "misgiving")
BOUNDS = {3: 300.0, 5: 420.0}  # of `reproduce`, by trials
COLLECT, CALIBRATE = 20.0, 15.0
TARGETS = ("--max-error", "0.03", "--max-ood-false-alarms", "0.05")
COLLECTING = """
if __name__ == "__main__":  # not in the processes that compute intervals
    import sys, time
    from pathlib import Path
    from misgiving import cli
    from misgiving.reproduction import collection
    collect, found = collection.collect, Path(sys.argv.pop())

    def timed(*arguments, **options):
        started = time.perf_counter()
        collect(*arguments, **options)
        found.write_text(str(time.perf_counter() - started))

    collection.collect = timed
    cli.run()
"""


def main() -> None:
    """Run the commands and report their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, choices=BOUNDS, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=15)
    options = parser.parse_args()
    time_starting(options.starts)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reproduce"
        reproduce = ("reproduce", "--trials", str(options.trials), "--out", str(out))
        trials = f"{options.trials} trials of digits"
        what, bound = f"misgiving reproduce, {trials}", BOUNDS[options.trials]
        Reading(what=what, bound=bound, values=[seconds_of(*COMMAND, *reproduce)]).report()
        collected = [seconds_of_collect(out, reproduce) for _ in range(options.rounds)]
        what = f"collecting the intervals of {trials}"
        Reading(what=what, bound=COLLECT, values=collected).report()
        run = out / "units" / "generalization" / "trial-0" / "proposed" / "run"
        calibrate = (*COMMAND, "calibrate", str(run), "digits", *TARGETS, "--overwrite")
        calibrated = [seconds_of(*calibrate) for _ in range(options.rounds)]
        what = "misgiving calibrate, a run on digits"
        Reading(what=what, bound=CALIBRATE, values=calibrated).report()


def time_starting(starts: int) -> None:
    """Check that torch is not imported, and time both."""
    for what, code, command, bound in (
        ("misgiving --help, whole process", HELP, ("-m", "misgiving", "--help"), 0.4),
        ("import misgiving, whole process", "import misgiving", ("-c", "import misgiving"), 0.1),
    ):
        check_torch(what, code)
        rounds = alternate(python(*command), python("-c", "pass"), rounds=starts)
        candidate, bare = zip(*rounds, strict=True)
        notes = (
            f"fastest {min(candidate):.3f} s; a bare python: median {median(bare):.3f} s, fastest "
            f"{min(bare):.3f} s",
        )
        Reading(what=what, bound=bound, values=list(candidate), notes=notes).report()


def python(*arguments: str) -> Callable[[], object]:
    """A call that runs a fresh interpreter and waits for it."""
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def check_torch(what: str, code: str) -> None:
    """Check that the code does not import torch."""
    command = [sys.executable, "-c", CHECKED + code]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    if run.stdout.splitlines()[-1] != "False":
        raise SystemExit(f"{what} imports torch")


def seconds_of(*command: str) -> float:
    """Run a command in a process and time it."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def seconds_of_collect(out: Path, reproduce: tuple[str, ...]) -> float:
    """Seconds that `collect` takes within the command, which runs in a process."""
    script, seconds = out.with_name("collecting.py"), out.with_name("seconds")
    script.write_text(COLLECTING)
    command = (sys.executable, str(script), *reproduce, "--collect", str(seconds))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return float(seconds.read_text())


if __name__ == "__main__":
    main()
