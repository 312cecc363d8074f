"""Start-up time of `misgiving --help` and `import misgiving`, as whole processes.

    python benchmarks/starting.py [--rounds 15]

Each is a fresh process, in turn with a bare `python -c pass`, whose time is in the notes. The bound
is in seconds, since a person waits for them. Fails if torch is imported.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from statistics import median

from side_by_side import Reading, alternate

HELP = "import sys; sys.argv = ['misgiving', '--help']; from misgiving.cli import run; run()"
CHECKED = "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); "


def main() -> None:
    """Check that torch is not imported, and time both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for what, code, command, bound in (
        ("misgiving --help, whole process", HELP, ("-m", "misgiving", "--help"), 0.4),
        ("import misgiving, whole process", "import misgiving", ("-c", "import misgiving"), 0.1),
    ):
        _refuse_torch(what, code)
        rounds = alternate(python(*command), python("-c", "pass"), rounds=options.rounds)
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


def _refuse_torch(what: str, code: str) -> None:
    command = [sys.executable, "-c", CHECKED + code]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    if run.stdout.splitlines()[-1] != "False":
        raise SystemExit(f"{what} imports torch")


if __name__ == "__main__":
    main()
