"""A small reproduction as a command: OUT CACHE, and the ADDRESS of a Ray cluster to run it on."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import TINY  # beside the tests of all packages

from misgiving.reproduction.collection import collect
from misgiving.reproduction.ray import on_ray
from misgiving.reproduction.runner import on_this_machine, reproduce_units
from misgiving.reproduction.trial_data import TrialData

SMALL = replace(TINY, trials=1, models=("vanilla",))

if __name__ == "__main__":
    out, cache, *address = sys.argv[1:]
    trial_data = TrialData(SMALL, Path(cache))
    run = on_ray(address[0], threads=1) if address else on_this_machine(threads=1)
    reproduce_units(trial_data, Path(out), run=run)
    collect(trial_data, Path(out))
