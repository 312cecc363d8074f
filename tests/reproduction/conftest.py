import os
import shutil

import pytest
from filelock import FileLock
from small import SMALL
from tiny import TINY

from misgiving.reproduction.collection import collect
from misgiving.reproduction.runner import on_this_machine, reproduce_units
from misgiving.reproduction.trial_data import TrialData


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def trial_data(cache):
    return TrialData(TINY, cache)


@pytest.fixture(scope="session")
def reproduction(trial_data, tmp_path_factory):
    """A finished tiny reproduction with one thread; tests read it and leave it as it is.

    All processes of a test run share it: the first that needs it makes it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    out = shared / "reproduction"
    with FileLock(shared / "reproduction.lock"):
        if not (out / "collected.json").exists():
            reproduce_units(trial_data, out, run=on_this_machine(threads=1))
            collect(trial_data, out)
    return out


@pytest.fixture(scope="session")
def small_reproduction(cache, reproduction, tmp_path_factory):
    """Result of `small.py`, collected from finished units; tests leave it as it is."""
    out = tmp_path_factory.mktemp("small")
    shutil.copytree(reproduction / "units", out / "units")
    collect(TrialData(SMALL, cache), out)
    return out
