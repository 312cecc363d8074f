from dataclasses import replace

import pytest
from fabricated import (
    synthetic_histories,
    synthetic_intervals,
    synthetic_results,
    write_dermoscopy,
    write_reproduction,
)
from policy_rows import write_with_policies

from misgiving.results.formats import read_document, write_document
from misgiving.results.schema import Settings


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
def finished(tmp_path_factory, results, intervals, histories):
    """A folder that no test changes."""
    return write_reproduction(tmp_path_factory.mktemp("run"), results, intervals, histories)


@pytest.fixture(scope="session")
def dermoscopy(tmp_path_factory):
    """A folder of a run on dermoscopy, that no test changes."""
    return write_dermoscopy(tmp_path_factory.mktemp("dermoscopy"))


@pytest.fixture(scope="session")
def with_policies(tmp_path_factory, results, intervals, histories):
    """A folder with policies and all detectors, that no test changes."""
    folder = tmp_path_factory.mktemp("with_policies")
    write_reproduction(folder, results, intervals, histories)
    return write_with_policies(folder, results, intervals)


@pytest.fixture
def folder(tmp_path, results, intervals, histories):
    return write_reproduction(tmp_path, results, intervals, histories)


@pytest.fixture
def rewrite(folder, results, intervals, histories):
    """Write the folder again with the rows that a test keeps."""

    def write(results=results, intervals=intervals, histories=histories):
        return write_reproduction(folder, results, intervals, histories)

    return write


@pytest.fixture
def change_settings(folder):
    def change(**values):
        path = folder / "settings.json"
        write_document(path, replace(read_document(path, Settings), **values))

    return change
