import pytest
from scenes import scene

from misgiving.scores.detectors import FittedDetectors


@pytest.fixture(scope="session")
def training():
    return scene(600)


@pytest.fixture(scope="session")
def queries():
    return scene(50, seed=1)


@pytest.fixture(scope="session")
def detectors(training):
    return FittedDetectors.fit(training)
