"""A small reproduction on a Ray cluster, as a command: ADDRESS OUT CACHE."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import TINY  # beside the tests of all packages

from misgiving.reproduction.aggregate import collect
from misgiving.reproduction.ray import on_ray
from misgiving.reproduction.runner import reproduce_units
from misgiving.reproduction.trial_data import TrialData

SMALL = replace(TINY, trials=1, models=("vanilla",))

if __name__ == "__main__":
    address, out, cache = sys.argv[1:]
    trial_data = TrialData(SMALL, Path(cache))
    reproduce_units(trial_data, Path(out), run=on_ray(address, threads=1))
    collect(trial_data, Path(out))
