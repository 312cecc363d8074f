import pytest
from tiny import TINY

from misgiving.experiments.bench import Bench
from misgiving.experiments.collection import collect
from misgiving.experiments.units import reproduce_units


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def bench(cache):
    return Bench(TINY, cache)


@pytest.fixture(scope="session")
def reproduction(bench, tmp_path_factory):
    """A finished tiny reproduction; tests read it and leave it as it is."""
    out = tmp_path_factory.mktemp("reproduction")
    reproduce_units(bench, out)
    collect(bench, out)
    return out
