import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

# The package is imported late: the process that shares out the tests does not need it.
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"

# A busy machine is no failure, so that time is not judged. The same examples each time, unless
# `make soak` asks for many more and for others.
UNTIMED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("check", max_examples=50, derandomize=True, **UNTIMED)
hypothesis.settings.register_profile("soak", max_examples=1000, print_blob=True, **UNTIMED)
hypothesis.settings.load_profile("check")


# A shell has what it runs in the background ignore Ctrl-C, and processes under test inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def real_data():
    """Real dermoscopic images beside the repository, where they are at hand."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not at hand: there is no ../shared/data")
    return REAL_DATA


@pytest.fixture
def images():
    from coloured import coloured_set

    return coloured_set()


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A run with a policy, and the bundle that was exported of it; made once for all processes."""
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
    run, bundle = folder / "run", folder / "bundle"
    with FileLock(folder.with_suffix(".lock")):
        if not bundle.exists():
            from bundled import checkpoint, policy_of, write_run

            from misgiving.bundle.export_run import export_run

            made = checkpoint()
            export_run(write_run(run, made, policy_of(made)), bundle)
    return run, bundle


@pytest.fixture(scope="session")
def trained_photos(tmp_path_factory):
    """A folder `photos` with images of two colours, and a `run` that was trained on them."""
    from commands import trained_on_photos

    return trained_on_photos(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def photos(trained_photos, tmp_path):
    return shutil.copytree(trained_photos / "photos", tmp_path / "photos")


@pytest.fixture
def run_folder(trained_photos, photos, tmp_path):
    """The run, trained on the photos that lie beside it."""
    from commands import reseal

    run = shutil.copytree(trained_photos / "run", tmp_path / "run")
    data = json.loads((run / "config.json").read_text())["data"]
    reseal(run, data={**data, "name": f"folder:{photos}"})
    return run


@pytest.fixture
def cache_home(tmp_path):
    """Where commands keep prepared images; a module of slow tests may share one."""
    return tmp_path / "cache"


@pytest.fixture
def misgiving(monkeypatch, cache_home):
    """Run the command line in this process; gives exit code, standard output and standard error."""
    from commands import call

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_home))
    monkeypatch.setenv("COLUMNS", "200")
    return partial(call, cache=cache_home)


@pytest.fixture
def succeed(misgiving):
    """Run a command that must succeed."""

    def run(*words):
        done = misgiving(*words)
        assert done.code == 0, done.err
        return done

    return run


@pytest.fixture
def fail(misgiving):
    """Run a command that must fail in one line, with this exit code; gives the line."""
    from commands import one_line

    def run(code, *words):
        done = misgiving(*words)
        assert done.code == code, done.err
        return one_line(done.err)

    return run


@pytest.fixture(scope="module")
def browser():
    from browsing import ARGUMENTS, CHROMIUM, playwright

    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def visit(browser):
    """Open the page at a width; it must have no error on its console."""
    pages, errors = [], []

    def opened(place, width=1400, **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text))
        page.goto(place)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert errors == []


@pytest.fixture
def violations_in(visit, tmp_path):
    """Violations of WCAG 2.1 AA that axe finds in HTML with everything unfolded, light and dark."""

    from browsing import UNFOLD, violations

    def look(html):
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        page = visit((tmp_path / "page.html").as_uri())
        page.evaluate(UNFOLD)
        return violations(page)

    return look


@pytest.fixture
def as_in_use():
    """Without the checks of the test run, which would refuse arguments or slow simulations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
