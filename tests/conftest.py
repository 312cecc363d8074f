from pathlib import Path

import pytest
from coloured import coloured_set

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def real_data():
    """Real dermoscopic images beside the repository, where they are at hand."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not at hand: there is no ../shared/data")
    return REAL_DATA


@pytest.fixture
def images():
    return coloured_set()
