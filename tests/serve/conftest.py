import pytest
from fastapi.testclient import TestClient
from standin import Standin

from misgiving.serve import Settings, Store, create_app


@pytest.fixture
def store_place(tmp_path):
    return str(tmp_path / "cases.sqlite")


@pytest.fixture
def serving(store_place):
    """Start a service with these settings; gives a client of it."""
    started = []

    def serve(model=None, store=None, **settings):
        settings.setdefault("threads", 1)
        store = store or Store.open(store_place)
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
