"""A small reproduction on a Ray cluster, as a command: ADDRESS OUT CACHE."""

import sys
from dataclasses import replace
from pathlib import Path

from tiny import TINY

from misgiving.experiments.bench import Bench
from misgiving.experiments.cluster import on_ray
from misgiving.experiments.collection import collect
from misgiving.experiments.units import reproduce_units

SMALL = replace(TINY, trials=1, models=("vanilla",))

if __name__ == "__main__":
    address, out, cache = sys.argv[1:]
    bench = Bench(SMALL, Path(cache))
    reproduce_units(bench, Path(out), run=on_ray(address, threads=1))
    collect(bench, Path(out))
