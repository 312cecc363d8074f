import pytest
from databases import emptied, postgresql
from fastapi.testclient import TestClient
from standin import Standin

from misgiving.serve import Settings, Store, create_app


@pytest.fixture(scope="session")
def database():
    with postgresql() as url:
        yield url


@pytest.fixture
def sqlite_place(tmp_path):
    return str(tmp_path / "cases.sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request):
    """Of an empty store, of either kind."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_place")
    return emptied(request.getfixturevalue("database"))


@pytest.fixture
def serving(sqlite_place):
    """Start a service with these settings; gives a client of it."""
    started = []

    def serve(model=None, store=None, **settings):
        settings.setdefault("threads", 1)
        store = store or Store.open(sqlite_place)
        app = create_app(model or Standin(), store, Settings(**settings))
        client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        started.append(client.__enter__())
        return client

    yield serve
    for client in started:
        client.__exit__(None, None, None)


@pytest.fixture
def client(serving):
    return serving()
