"""A small reproduction as a command: OUT CACHE."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import TINY  # beside the tests of all packages

from misgiving.reproduction.runner import on_this_machine, reproduce_units
from misgiving.reproduction.trial_data import TrialData

SMALL = replace(TINY, trials=1, models=("vanilla",))

if __name__ == "__main__":
    out, cache = map(Path, sys.argv[1:])
    reproduce_units(TrialData(SMALL, cache), out, run=on_this_machine(threads=1))
