import os
from collections import defaultdict
from functools import partial

import pytest
from fabricated import (
    PLAIN_SETS,
    complete_run,
    examples,
    paired_intervals,
    plain_histories,
    plain_results,
    run_of,
)
from filelock import FileLock
from matplotlib.figure import Figure
from small import SMALL
from tiny import TINY

from misgiving.reproduction.collection import collect
from misgiving.reproduction.protocol import units
from misgiving.reproduction.report.page import draw_figures, render_page
from misgiving.reproduction.report.run import read_run
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
        if not (out / "intervals.csv").exists():
            reproduce_units(trial_data, out, run=on_this_machine(threads=1))
            collect(trial_data, out)
    return out


@pytest.fixture(scope="session")
def small(cache):
    """The images of `small.py`."""
    return TrialData(SMALL, cache)


@pytest.fixture
def check_small(reproduction):
    """Check that a folder of `small.py` has, byte for byte, what one process makes undisturbed."""

    def check(out):
        for unit in units(SMALL):
            whole = reproduction / unit.folder
            files = [path.relative_to(whole) for path in whole.rglob("*.*") if path.is_file()]
            for name in files:
                if name.suffix != ".json":  # which hold seconds
                    assert (out / unit.folder / name).read_bytes() == (whole / name).read_bytes()
            assert len(files) > 8
        assert not [path for path in out.rglob("*.partial") if path.is_dir()]

    return check


@pytest.fixture(scope="session")
def page_of():
    """The report on a reproduction's folder without its figures, which take most of the time."""

    def page(out):
        return render_page(read_run(out), defaultdict(partial(Figure, (1, 1))))

    return page


@pytest.fixture(scope="session")
def results():
    return plain_results()


@pytest.fixture(scope="session")
def histories():
    return list(plain_histories())


@pytest.fixture(scope="session")
def finished(results, histories):
    """A run without policies, which does not compare with the paper."""
    return run_of(results, paired_intervals(results), histories, pictures=examples(PLAIN_SETS))


@pytest.fixture(scope="session")
def complete():
    return complete_run()


@pytest.fixture(scope="session")
def complete_figures(complete):
    return draw_figures(complete)
