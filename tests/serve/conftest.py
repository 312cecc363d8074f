import json
import logging
import threading
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import uvicorn
from fastapi.testclient import TestClient
from services import emptied, postgresql
from standin import NO_TIMEOUT, Calibrated, Standin
from waiting import until

from misgiving.serve import reviews
from misgiving.serve.app import JsonLines, create_app
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store


@pytest.fixture(autouse=True)
def answers_count_in(monkeypatch):
    """Set the time in which a blind answer can be corrected; there is none, if a test sets none."""

    def seconds(count):
        monkeypatch.setattr("misgiving.serve.case.CORRECTION_TIME", timedelta(seconds=count))

    seconds(0)
    return seconds


@pytest.fixture(autouse=True)
def agreed_cases_are_read_twice(monkeypatch):
    """As in the service, for a test that says so; for others, the first who agrees settles."""
    drawn = reviews.is_read_twice
    monkeypatch.setattr("misgiving.serve.reviews.is_read_twice", lambda *_: False)
    return lambda: monkeypatch.setattr("misgiving.serve.reviews.is_read_twice", drawn)


@pytest.fixture
def hash_key(tmp_path, monkeypatch):
    """The key by which patients are hashed, in place of the user's."""
    (tmp_path / "hash.key").write_text("k" * 32)
    monkeypatch.setenv("MISGIVING_HASH_KEY", str(tmp_path / "hash.key"))


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
def store(place):
    opened = Store.open(place)
    yield opened
    opened.close()


@contextmanager
def _service(place, model=None, store=None, **settings):
    settings = {"threads": 1, "timeout": NO_TIMEOUT} | settings
    app = create_app(
        model or Standin(), store or Store.open(str(place)), ServiceSettings(**settings)
    )
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def serving(sqlite_place):
    """Start a service with these settings; gives a client of it."""
    with ExitStack() as stack:
        yield lambda *parts, **settings: stack.enter_context(
            _service(sqlite_place, *parts, **settings)
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The client of a service for tests that do not depend on its cases."""
    with _service(tmp_path_factory.mktemp("service") / "cases.sqlite") as client:
        yield client


@pytest.fixture
def client(serving):
    return serving()


@pytest.fixture
def page_service(tmp_path, request):
    """The service on a free port, in a thread; a test can give further settings."""
    store = Store.open(str(tmp_path / "cases.sqlite"))
    fixed = {"threads": 1, "timeout": NO_TIMEOUT, "keep_images": tmp_path / "kept"}
    settings = ServiceSettings(**fixed, **getattr(request, "param", {}))
    app = create_app(Calibrated(), store, settings)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    address = "http://{}:{}/".format(*server.servers[0].sockets[0].getsockname())
    yield SimpleNamespace(store=store, service=app.state.service, address=address)
    server.should_exit = True
    thread.join()


@pytest.fixture
def opened(browser, page_service):
    """Open the page, with reviewed cases in the list if nothing else is said.

    It must make no outside request and have no error on its console.
    """
    contexts, outside, errors = [], [], []

    def open_page(fragment="#reviewed=all", prepare=None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: outside.append(request.url))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda shown: errors.append(f"dialog: {shown.message}"))
        if prepare:
            prepare(page)
        page.goto(page_service.address + fragment)
        page.wait_for_selector("body[data-ready]")
        return page

    open_page.errors = errors
    yield open_page
    for context in contexts:
        for page in context.pages:  # a handler that still runs would fail the next test
            page.unroute_all(behavior="ignoreErrors")
        context.close()
    hosts = {urlsplit(url).netloc for url in outside if not url.startswith(("data:", "blob:"))}
    assert hosts <= {urlsplit(page_service.address).netloc}
    assert errors == []


@pytest.fixture
def logged(caplog):
    """The lines of the log so far, as JSON."""
    caplog.set_level(logging.INFO)
    return lambda: [json.loads(JsonLines().format(record)) for record in caplog.records]
