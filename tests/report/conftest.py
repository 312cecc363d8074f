import pytest
from fabricated import (
    SETS,
    dermoscopy_run,
    examples,
    run_of,
    run_with_policies,
    synthetic_histories,
    synthetic_intervals,
    synthetic_results,
)


@pytest.fixture(scope="session")
def results():
    return synthetic_results()


@pytest.fixture(scope="session")
def intervals(results):
    return list(synthetic_intervals(results))


@pytest.fixture(scope="session")
def histories():
    return list(synthetic_histories())


@pytest.fixture(scope="session")
def finished(results, intervals, histories):
    return run_of(results, intervals, histories, pictures=examples(SETS, number=2))


@pytest.fixture(scope="session")
def dermoscopy():
    return dermoscopy_run()


@pytest.fixture(scope="session")
def with_policies(results, intervals, histories):
    return run_with_policies(results, intervals, histories)
