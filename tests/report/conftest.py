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

from misgiving.report.reproduction.page import draw_figures


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
