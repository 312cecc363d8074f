"""The page in a real browser, against the real service."""

import csv
import io
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from calibrated import Calibrated
from standin import picture

from misgiving.serve import Settings, Store, create_app
from misgiving.serve.records import Case, Review

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
]
SCRIPT = "<img src=x onerror=alert(1)>.png"
BLUES = {"sure": 0.02, "doubtful": 0.45, "middling": 0.3, "quite": 0.12}
GREEN = (0, 255, 0)

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="there is no /usr/bin/chromium to try the page in"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield found
        found.close()


class Serving:
    """The service on a free port, in a thread."""

    def __init__(self, place, **settings):
        settings.setdefault("threads", 1)
        self.store = Store.open(str(place))
        app = create_app(Calibrated(), self.store, Settings(**settings))
        self._app = app
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"

    @property
    def policy_fingerprint(self):
        return self._app.state.service.policy_fingerprint

    def close(self):
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def serving(tmp_path):
    service = Serving(tmp_path / "cases.sqlite")
    yield service
    service.close()


@pytest.fixture
def opened(browser, serving):
    """Open the page; it must make no outside request and have no error on its console."""
    contexts, outside, errors = [], [], []

    def open_page(fragment="", prepare=None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8000)
        page.on("request", lambda request: outside.append(request.url))
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda shown: errors.append(f"dialog: {shown.message}"))
        if prepare:
            prepare(page)
        page.goto(serving.address + fragment)
        page.wait_for_selector("body[data-ready]")
        return page

    open_page.errors = errors
    yield open_page
    for context in contexts:
        context.close()
    hosts = {urlsplit(url).netloc for url in outside if not url.startswith(("data:", "blob:"))}
    assert hosts <= {urlsplit(serving.address).netloc}
    assert errors == []


def files(named):
    return [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in named.items()]


def shades(named=BLUES):
    """Images by name; the level is also the probability of error."""
    return {f"{name}.png": picture(level) for name, level in named.items()}


def choose(page, named):
    count = len(named) + page.locator(".row").count()
    page.locator("#files").set_input_files(files(named))
    playwright.expect(page.locator(".row")).to_have_count(count)


START = datetime(2026, 1, 1, tzinfo=UTC)


def stored(serving, number, *, decision="defer", error=0.3, reviewed_by=None, **values):
    """A case that is put into the store as if another process had answered it."""
    one = Case(
        **{
            "id": f"{number:032x}",
            "received": START + timedelta(seconds=number),
            "name": f"{number}.png",
            "predicted_class": "dark",
            "probability": None if error is None else 1 - error,
            "probabilities": {"dark": 0.7, "light": 0.3},
            "error_probability": error,
            "expected_loss": 0.5,
            "predicted_loss": None,
            "foreign_p_value": 0.5,
            "decision": decision,
            "reason": "because",
            "score": None if error is None else 1 - error,
            "foreign_score": -1.0,
            "sha256": f"{number:064x}",
            "model_fingerprint": "f" * 64,
            "policy_fingerprint": None,
            "image_kept": False,
        }
        | values
    )
    serving.store.add([one])
    if reviewed_by:
        serving.store.review(one.id, said_by(reviewed_by))
    return one


def said_by(reviewer, final_class="dark"):
    return Review(
        verdict="agree" if final_class == "dark" else "override",
        final_class=final_class,
        note="",
        reviewer=reviewer,
        reviewed_at=datetime.now(UTC),
    )


def rewriting(page, module, old, new):
    """Serve a module of the script with another constant."""

    def change(route):
        text = route.fetch().text()
        assert old in text
        route.fulfill(body=text.replace(old, new), content_type="text/javascript")

    page.route(f"**/script/{module}", change)


def no_pictures(page):
    """Where cases come from the store alone, no browser asks for their pictures."""
    pixel = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    page.route(
        "**/thumbnail", lambda route: route.fulfill(body=pixel, content_type="image/svg+xml")
    )


def names(page):
    return page.locator(".row .line span").all_inner_texts()


def drop(page, named):
    """Drop files on the page, as a hand would."""
    page.evaluate(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, bytes] of files)
                transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
            document.body.dispatchEvent(
                new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        [[name, list(data)] for name, data in named.items()],
    )


def test_dropped_images_are_listed_worst_first_with_reasons_and_thumbnails(opened):
    page = opened()
    drop(page, shades())
    rows = page.locator(".row")
    playwright.expect(rows).to_have_count(4)
    assert names(page) == ["doubtful.png", "middling.png", "quite.png", "sure.png"]
    playwright.expect(rows.first.locator(".badge")).to_have_text("defer")
    playwright.expect(rows.last.locator(".badge")).to_have_text("accept")
    assert "probability of error 0.45 is above" in rows.first.locator(".why").inner_text()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.row img')].every((one) => one.naturalWidth > 0)"
    )
    playwright.expect(page.locator("#counts")).to_contain_text("2 accept")


def test_a_folder_is_sent_and_what_is_no_image_is_named(opened, tmp_path):
    folder = tmp_path / "patients"
    (folder / "one").mkdir(parents=True)
    (folder / "one" / "a.png").write_bytes(picture(0.1))
    (folder / "b.png").write_bytes(picture(0.4))
    (folder / "notes.txt").write_text("no image")
    page = opened()
    page.locator("#folder").set_input_files(folder)
    playwright.expect(page.locator(".row")).to_have_count(2)
    assert names(page) == ["patients/b.png", "patients/one/a.png"]
    playwright.expect(page.locator("#failures-title")).to_have_text("1 could not be answered")
    assert "notes.txt" in page.locator("#failures-list").text_content()


def test_a_file_that_was_not_answered_in_time_is_sent_again_alone(opened):
    page = opened()
    seen = []

    def late(route):
        found = route.fetch().json()
        seen.append([result["name"] for result in found["results"]])
        if len(seen) == 1:
            problem = {"status": 503, "title": "Service Unavailable", "detail": "not in time"}
            found["results"][1] |= {"case": None, "problem": problem}
        route.fulfill(json=found)

    page.route("**/decisions", late)
    page.locator("#files").set_input_files(files(shades({"sure": 0.02, "quite": 0.12})))
    playwright.expect(page.locator("#status")).to_have_text("2 images answered, 0 failed.")
    assert seen == [["sure.png", "quite.png"], ["quite.png"]]


def test_filters_show_what_they_say(opened):
    page = opened()
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    page.get_by_role("checkbox", name="foreign").check()
    playwright.expect(page.locator(".row")).to_have_count(1)
    assert names(page) == ["odd.png"]
    page.get_by_role("checkbox", name="accept").check()
    playwright.expect(page.locator(".row")).to_have_count(3)
    page.locator("#reviewed").select_option("yes")
    playwright.expect(page.locator("#empty")).to_have_text("No case is like that.")


def test_the_slider_marks_anew_what_would_be_accepted_and_changes_no_policy(opened):
    page = opened()
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("30")
    playwright.expect(page.locator("#target-text")).to_have_text("30.0 %")
    badges = page.locator(".row .badge").all_inner_texts
    playwright.expect(page.locator(".row .was").first).to_have_text("was defer")
    assert badges().count("foreign") == 1
    assert badges().count("accept") > 2
    bound = float(page.locator("#fact-bound").inner_text().rstrip(" %"))
    assert 20 < bound <= 30
    assert "--max-error 0.3 --confidence 0.95" in page.locator("#command").text_content()
    page.locator("#target").fill("0.5")
    playwright.expect(page.locator("#fact-coverage")).to_have_text("0 %")
    assert badges().count("accept") == 0
    page.locator("#back-to-policy").click()
    playwright.expect(page.locator(".row .was")).to_have_count(0)
    decided = page.evaluate("() => fetch('cases').then((answer) => answer.json())")["cases"]
    assert sorted(one["decision"] for one in decided) == ["accept"] * 2 + ["defer"] * 2 + [
        "foreign"
    ]


def test_cases_are_reviewed_with_the_keyboard_alone(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    page.keyboard.press("a")
    playwright.expect(page.locator("#status")).to_have_text("dark is saved for doubtful.png.")
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    page.keyboard.press("n")
    page.keyboard.type("a jk note")
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    playwright.expect(page.locator("#classes button")).to_have_count(2)
    page.keyboard.press("2")
    playwright.expect(page.locator("#status")).to_have_text("light is saved for middling.png.")
    page.keyboard.press("k")
    playwright.expect(page.locator("#case-class")).to_have_text("light")
    playwright.expect(page.locator("#case-was")).to_have_text("was dark")
    playwright.expect(page.locator("#history")).to_contain_text("overrode, light\na jk note")
    page.keyboard.press("?")
    playwright.expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".row .done")).to_have_count(2)


def test_the_list_is_told_to_screen_readers(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    option = page.locator("#list").get_by_role("option", selected=True)
    assert page.locator("#list").get_attribute("aria-activedescendant") == option.get_attribute(
        "id"
    )
    assert option.get_attribute("aria-posinset") == "2"
    assert option.get_attribute("aria-setsize") == "4"


def test_the_worklist_is_exported_as_it_is_filtered(opened):
    page = opened()
    choose(page, shades())
    page.get_by_role("checkbox", name="accept").check()
    playwright.expect(page.locator(".row")).to_have_count(2)
    with page.expect_download() as download:
        page.locator("#csv").click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert [row["name"] for row in rows] == ["quite.png", "sure.png"]


def test_a_reload_keeps_filters_slider_order_and_selection(opened):
    page = opened()
    choose(page, shades())
    page.get_by_role("checkbox", name="defer").check()
    page.locator("#order").select_option("newest")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("7.5")
    page.locator(".row").nth(1).click()
    chosen = page.locator("#case-name").inner_text()
    shown = names(page)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert names(page) == shown
    assert page.get_by_role("checkbox", name="defer").is_checked()
    assert page.locator("#order").input_value() == "newest"
    assert page.locator("#target").input_value() == "7.5"
    playwright.expect(page.locator("#case-name")).to_have_text(chosen)


def test_on_a_phone_nothing_is_wider_than_the_screen_and_a_case_takes_its_place(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    long = "a_very_long_name_without_any_space_" * 4 + ".png"
    choose(page, {long: picture(0.4)})
    wide = "() => document.documentElement.scrollWidth"
    page.locator("#setting summary").first.tap()
    assert page.evaluate(wide) <= 360
    page.locator(".row").tap()
    playwright.expect(page.locator("#list")).to_be_hidden()
    playwright.expect(page.locator("#case")).to_be_visible()
    assert page.evaluate(wide) <= 360
    page.locator("#back").tap()
    playwright.expect(page.locator("#list")).to_be_visible()


def test_a_script_in_a_name_or_note_is_shown_as_text(opened):
    page = opened()
    choose(page, {SCRIPT: picture(0.4)})
    page.locator(".row").click()
    playwright.expect(page.locator("#case-name")).to_have_text(SCRIPT)
    page.locator("#note").fill("<script>alert(2)</script>")
    page.locator("#agree").click()
    playwright.expect(page.locator("#history")).to_contain_text("<script>alert(2)</script>")
    assert page.locator("script").count() == 1


def test_what_is_promised_is_not_taken_for_one_answer(opened):
    page = opened()
    choose(page, shades())
    note = page.locator("#promise-note")
    page.get_by_role("option").filter(has_text="sure.png").click()
    playwright.expect(note).to_be_hidden()
    page.get_by_role("option").filter(has_text="quite.png").click()
    playwright.expect(note).to_contain_text("at most 10.0 % wrong, is said of all accepted answers")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("0.5")
    playwright.expect(page.locator("#case-reason")).to_have_text(re.compile("^By the saved policy"))
    playwright.expect(note).to_be_hidden()


def test_classes_that_are_digits_have_their_own_keys(opened):
    page = opened()
    choose(page, shades())
    worst = {}

    def renamed(route):
        found = route.fetch().json()
        for one in found["cases"]:
            one["probabilities"] = {"0": 0.2, "4": 0.3, "7": 0.5}
        worst.update(found["cases"][0])
        route.fulfill(json=found)

    def saved(route):
        said = route.request.post_data_json
        remark = {"verdict": "override", "final_class": said["class"], "note": "", "reviewer": ""}
        moment = {"reviewed_at": "2030-01-01T00:00:00Z"}
        route.fulfill(json={**worst, "reviewed": True, "review": {**remark, **moment}})

    page.route("**/cases?*", renamed)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator(".row").first.click()
    page.keyboard.press("o")
    assert page.locator("#classes kbd").all_inner_texts() == ["0", "4", "7"]
    page.route("**/review", saved)
    page.keyboard.press("4")
    playwright.expect(page.locator("#status")).to_have_text("4 is saved for doubtful.png.")


def test_a_class_that_is_not_the_likeliest_is_explained(opened):
    page = opened()
    choose(page, shades())

    def turn(route):
        found = route.fetch().json()
        for one in found["cases"]:
            if one["name"] == "sure.png":
                one["predicted_class"] = "light"
        route.fulfill(json=found)

    page.route("**/cases?*", turn)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    note = page.locator("#shares-note")
    page.get_by_role("option").filter(has_text="quite.png").click()
    playwright.expect(note).to_be_hidden()
    page.get_by_role("option").filter(has_text="sure.png").click()
    playwright.expect(note).to_contain_text("light is what the model names: its largest output")
    playwright.expect(note).to_contain_text("dark is more probable")


def test_where_it_looks_is_drawn_on_demand(opened):
    page = opened()
    choose(page, shades())
    page.locator(".row").last.click()
    playwright.expect(page.locator("#heat")).to_be_hidden()
    page.locator("#saliency").click()
    playwright.expect(page.locator("#heat")).to_be_visible()
    playwright.expect(page.locator("#saliency-says")).to_contain_text(
        "the probability of dark falls by"
    )
    page.keyboard.press("s")
    playwright.expect(page.locator("#heat")).to_be_hidden()


def test_a_banner_says_when_images_have_changed(opened):
    page = opened()
    choose(page, shades())
    playwright.expect(page.locator("#drift")).to_be_hidden()
    choose(page, {f"odd{n}.png": picture(colour=(0, 255, n), size=(9, 9)) for n in range(5)})
    drop(page, {f"more{n}.png": picture(colour=(0, 255, n + 5), size=(9, 9)) for n in range(40)})
    playwright.expect(page.locator("#drift")).to_be_visible()
    playwright.expect(page.locator("#drift")).to_contain_text("less like the training images")


def test_the_list_holds_no_more_rows_than_are_seen_of_many_cases(opened):
    page = opened()
    page.evaluate(
        """async () => {
            for (let batch = 0; batch < 4; batch++) {
                const body = new FormData();
                const image = new OffscreenCanvas(4, 4), pen = image.getContext("2d");
                for (let one = 0; one < 50; one++) {
                    pen.fillStyle = `rgb(${one} ${one} ${one})`;
                    pen.fillRect(0, 0, 4, 4);
                    body.append("files", await image.convertToBlob(), `${batch}-${one}.png`);
                }
                await fetch("decisions", {method: "POST", body});
            }
        }"""
    )
    page.reload()
    page.wait_for_selector("body[data-ready]")
    playwright.expect(page.locator("#shown")).to_have_text("200 of 200 cases")
    assert page.locator(".row").count() < 40
    page.locator("#list").focus()
    page.keyboard.press("End")
    option = page.locator("#list").get_by_role("option", selected=True)
    playwright.expect(option).to_be_in_viewport()
    assert option.get_attribute("aria-posinset") == "200"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(scheme, opened):
    page = opened(color_scheme=scheme)
    choose(page, {**shades(), "odd.png": picture(colour=GREEN)})
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    page.keyboard.press("o")
    found = page.evaluate(COLOURS)
    assert len(found) > 40
    poor = [one for one in found if contrast(one["ink"], one["ground"]) < 4.5]
    assert poor == []


COLOURS = """() => [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.closest("svg") && !one.disabled
        && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => {
        let under = one;
        while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)")
            under = under.parentElement;
        return {text: one.textContent.trim().slice(0, 30), ink: getComputedStyle(one).color,
            ground: getComputedStyle(under).backgroundColor};
    })"""


def contrast(*colours):
    """The ratio of relative luminances (WCAG 2.2)."""
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_control_has_a_name(opened):
    page = opened()
    choose(page, shades())
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, a, progress")]
            .filter((one) => !one.hidden && one.checkVisibility())
            .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim()
                || [...(one.labels ?? [])].some((label) => label.textContent.trim())))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    identities = page.evaluate("() => [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(identities) == len(set(identities))


def drop_paths(page, *paths):
    """Drop what lies on the disk, as the system does: a folder is then a folder."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 300, "data": data})


def test_a_folder_that_is_dropped_is_sent_with_all_that_it_holds(opened, tmp_path):
    folder = tmp_path / "patients"
    (folder / "one" / "two").mkdir(parents=True)
    for number in range(130):
        (folder / "one" / f"{number:03d}.png").write_bytes(picture(0.1, size=(4, 4)))
    (folder / "one" / "two" / "deep.png").write_bytes(picture(0.4))
    (folder / ".hidden").write_text("of the system")
    (tmp_path / "alone.png").write_bytes(picture(0.3))
    page = opened()
    drop_paths(page, folder, tmp_path / "alone.png")
    playwright.expect(page.locator("#shown")).to_have_text("132 of 132 cases")
    assert names(page)[:2] == ["patients/one/two/deep.png", "alone.png"]
    playwright.expect(page.locator("#failures")).to_be_hidden()


def few_are_loaded(page):
    no_pictures(page)
    rewriting(page, "loading.js", "const MOST = 5000", "const MOST = 4")


@pytest.fixture
def more_than_are_loaded(serving, opened):
    """Five reviewed cases of much doubt, and one of little that is foreign and not reviewed."""
    for number in range(5):
        stored(serving, number, error=0.4, reviewed_by="A")
    stored(serving, 5, error=0.01, decision="foreign")
    return opened(prepare=few_are_loaded)


def test_it_is_said_that_not_all_cases_are_loaded_and_all_are_counted(more_than_are_loaded):
    page = more_than_are_loaded
    playwright.expect(page.locator("#shown")).to_have_text(
        "4 of 6 cases; 2 more fit and are not loaded"
    )
    playwright.expect(page.locator("#counts")).to_contain_text("5 defer")
    playwright.expect(page.locator("#counts")).to_contain_text("1 foreign")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("30")
    playwright.expect(page.locator("#setting-now")).to_contain_text("only the 4 cases")


@pytest.mark.parametrize("way", ["foreign", "unreviewed", "newest", "decision"])
def test_a_filter_or_order_finds_what_was_not_loaded_before(way, more_than_are_loaded):
    page = more_than_are_loaded
    if way == "foreign":
        page.get_by_role("checkbox", name="foreign").check()
    elif way == "unreviewed":
        page.locator("#reviewed").select_option("no")
    else:
        page.locator("#order").select_option(way)
    playwright.expect(page.locator(".row .line span").first).to_have_text("5.png")
    shown = "1 of 6 cases" if way in ("foreign", "unreviewed") else "4 of 6 cases; 2 more"
    playwright.expect(page.locator("#shown")).to_contain_text(shown)


def test_a_target_that_is_tried_finds_what_it_would_move_into_the_filter(serving, opened):
    fingerprint = serving.policy_fingerprint
    for number in range(5):
        stored(serving, number, error=0.4, decision="accept")
    stored(serving, 9, error=0.02, policy_fingerprint=fingerprint)
    page = opened("#show=accept", prepare=few_are_loaded)
    playwright.expect(page.locator("#shown")).to_contain_text("4 of 6 cases; 1 more")
    page.locator("#order").select_option("newest")
    page.locator("#setting summary").first.click()
    page.locator("#target").fill("30")
    playwright.expect(page.locator(".row .was")).to_have_text("was defer")


def held(page, key, times):
    """A key that is held down: the browser sends it again and again."""
    page.keyboard.down(key)
    for _ in range(times - 1):
        page.keyboard.down(key)
    page.keyboard.up(key)


def test_a_key_that_is_held_reviews_one_case_and_moves_through_many(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    held(page, "j", 2)
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    held(page, "a", 8)
    playwright.expect(page.locator("#case-name")).to_have_text("quite.png")
    page.wait_for_timeout(300)
    playwright.expect(page.locator(".row .done")).to_have_count(1)


def slow_reviews(page):
    """Reviews that take their time; gives what lets them go."""
    waiting = []
    page.route("**/review", lambda route: waiting.append(route))

    def go():
        while not waiting:
            page.wait_for_timeout(20)
        waiting.pop(0).continue_()

    go.waiting = waiting
    return go


def test_no_second_review_begins_while_one_is_being_sent(opened):
    page = opened()
    choose(page, shades())
    go = slow_reviews(page)
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("a")
    playwright.expect(page.locator("#status")).to_contain_text("still being sent")
    assert len(go.waiting) == 1
    go()
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")


@pytest.mark.parametrize("place", ["#target", "#choose-files", "[name=decision]", "#csv"])
def test_keys_review_nothing_while_another_control_has_the_focus(place, opened):
    page = opened()
    choose(page, shades())
    page.locator("#setting summary").first.click()
    page.locator(".row").first.click()
    page.locator(place).first.focus()
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.wait_for_timeout(200)
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator(".row .done")).to_have_count(0)


@pytest.mark.parametrize("way", ["key", "button"])
def test_a_review_is_undone_by_another_one_and_both_are_kept(way, opened):
    page = opened("#reviewed=no")
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.locator("#note").fill("too fast")
    page.locator("#agree").click()
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    playwright.expect(page.locator("#saved")).to_contain_text("dark is saved for doubtful.png.")
    page.keyboard.press("u") if way == "key" else page.locator("#undo").click()
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator("#note")).to_have_value("too fast")
    page.keyboard.press("o")
    page.keyboard.press("2")
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    (found,) = page.evaluate("() => fetch('cases?reviewed=true').then((one) => one.json())")[
        "cases"
    ]
    assert (found["name"], found["review"]["final_class"]) == ("doubtful.png", "light")


def test_single_keys_can_be_switched_off_and_stay_off(opened):
    page = opened()
    choose(page, shades())
    page.keyboard.press("?")
    page.locator("#shortcuts").uncheck()
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.wait_for_timeout(200)
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator(".row .done")).to_have_count(0)
    playwright.expect(page.locator("#agree kbd")).to_be_hidden()


def test_a_kept_image_that_is_missing_is_asked_for_once(browser, serving):
    stored(serving, 2, error=0.4, image_kept=True)
    stored(serving, 1, error=0.3, image_kept=True)
    asked = []

    def answer(route):
        asked.append(route.request.url)
        if f"{2:032x}" in route.request.url:
            route.fulfill(status=404)
        else:
            route.fulfill(body=picture(0.4), content_type="image/png")

    page = browser.new_page()
    page.route("**/thumbnail", answer)
    page.goto(serving.address)
    playwright.expect(page.locator(".row").first.locator(".thumb")).to_have_text("no image")
    page.wait_for_timeout(500)
    playwright.expect(page.locator(".row").last.locator("img")).to_have_count(1)
    page.close()
    assert len(asked) == 2


def test_a_review_that_takes_its_time_leaves_a_person_where_they_are(opened):
    page = opened()
    choose(page, shades())
    go = slow_reviews(page)
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.type("half a")
    go()
    playwright.expect(page.locator("#status")).to_have_text("dark is saved for doubtful.png.")
    page.keyboard.type(" note")
    playwright.expect(page.locator("#case-name")).to_have_text("quite.png")
    playwright.expect(page.locator("#note")).to_have_value("half a note")
    playwright.expect(page.locator("#note")).to_be_focused()


def test_a_note_that_is_begun_during_a_review_stays_where_it_is_written(opened):
    page = opened()
    choose(page, shades())
    go = slow_reviews(page)
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    page.keyboard.press("n")
    page.keyboard.type("late")
    go()
    playwright.expect(page.locator("#history li")).to_have_count(1)
    page.keyboard.type("r")
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")
    playwright.expect(page.locator("#note")).to_have_value("later")


def test_a_note_stays_with_its_case_until_it_is_sent(opened):
    page = opened()
    choose(page, shades())
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.keyboard.type("border unclear")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    playwright.expect(page.locator("#note")).to_have_value("")
    page.keyboard.press("k")
    playwright.expect(page.locator("#note")).to_have_value("border unclear")
    page.keyboard.press("a")
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    page.keyboard.press("k")
    playwright.expect(page.locator("#history")).to_contain_text("border unclear")
    playwright.expect(page.locator("#note")).to_have_value("")


FOREIGN = {f"odd{n}.png": picture(colour=(0, 255, n), size=(9, 9)) for n in range(45)}


def test_a_change_of_images_is_announced_once_and_stays_in_sight_on_a_phone(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    playwright.expect(page.locator("#notice")).to_be_visible()
    drop(page, FOREIGN)
    playwright.expect(page.locator("#drift")).to_be_visible()
    playwright.expect(page.locator("#status")).to_contain_text("no longer like those")
    page.locator("#list").focus()
    page.locator(".row").first.tap()
    playwright.expect(page.locator("#case")).to_be_visible()
    for part in ("#notice-brief", "#drift summary"):
        playwright.expect(page.locator(part)).to_be_in_viewport()
        assert page.locator(part).bounding_box()["height"] < 30
    page.locator("#agree").scroll_into_view_if_needed()
    playwright.expect(page.locator("#drift summary")).to_be_in_viewport()
    page.evaluate("() => { document.getElementById('status').textContent = 'else'; }")
    page.evaluate("() => import('./script/drift.js').then((one) => one.lookForDrift())")
    playwright.expect(page.locator("#status")).to_have_text("else")


def now_id(number=0):
    """An id of this moment, as the service gives them."""
    return f"{int(datetime.now(UTC).timestamp() * 1_000_000):014x}{number:018x}"


def look_again(page):
    """As a tab does that is looked at again."""
    page.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")


def test_what_others_do_appears_while_scroll_selection_and_note_stay(serving, opened):
    cases = [stored(serving, number, error=0.3 - number / 100) for number in range(30)]
    page = opened(prepare=no_pictures)
    page.locator("#list").evaluate("(list) => { list.scrollTop = 760; }")
    page.get_by_role("option").filter(has_text="12.png").click()
    page.locator("#note").fill("mine")
    stored(serving, 100, error=0.45, id=now_id(), name="urgent.png")
    serving.store.review(cases[12].id, said_by("B", "light"))
    serving.store.review(cases[13].id, said_by("B"))
    look_again(page)
    playwright.expect(page.locator("#counts")).to_contain_text("31 defer")
    playwright.expect(page.locator("#shown")).to_have_text("31 of 31 cases")
    playwright.expect(page.locator(".row .done")).to_have_count(2)
    playwright.expect(page.locator("#status")).to_have_text("B has reviewed this case: light.")
    playwright.expect(page.locator("#history")).to_contain_text("B, ")
    playwright.expect(page.locator("#note")).to_have_value("mine")
    assert page.locator("#list").evaluate("(list) => list.scrollTop") == 760 + 76
    page.locator("#list").evaluate("(list) => { list.scrollTop = 0; }")
    playwright.expect(page.locator(".row .line span").first).to_have_text("urgent.png")


def test_the_page_looks_for_what_is_new_by_itself_and_cheaply(serving, opened):
    stored(serving, 1)
    asked = []

    def prepare(page):
        no_pictures(page)
        page.clock.install()
        page.on("response", lambda one: asked.append(one) if "since" in one.url else None)

    page = opened(prepare=prepare)
    stored(serving, 2, id=now_id())
    asked.clear()
    page.clock.fast_forward(20_000)
    playwright.expect(page.locator("#shown")).to_have_text("2 of 2 cases")
    assert [len(one.json()["cases"]) for one in asked] == [1, 0]


def test_a_review_that_another_person_was_faster_with_is_shown_and_decided_again(serving, opened):
    one = stored(serving, 1)
    page = opened(prepare=no_pictures)
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.wait_for_timeout(300)
    serving.store.review(one.id, said_by("B. C.", "light"))
    page.locator("#note").fill("mine")
    page.locator("#agree").click()
    playwright.expect(page.locator("#problem")).to_contain_text(
        "B. C. has reviewed this case meanwhile and said light"
    )
    opened.errors.clear()  # a browser notes each 409
    playwright.expect(page.locator("#history")).to_contain_text("B. C., ")
    playwright.expect(page.locator("#note")).to_have_value("mine")
    assert [each.reviewer for each in serving.store.reviews(one.id)] == ["B. C."]
    page.locator("#agree").click()
    playwright.expect(page.locator("#status")).to_have_text("dark is saved for 1.png.")
    assert [each.final_class for each in serving.store.reviews(one.id)] == ["light", "dark"]


def test_a_case_that_is_opened_shows_the_reviews_of_others(serving, opened):
    one = stored(serving, 1)
    page = opened(prepare=no_pictures)
    serving.store.review(one.id, said_by("B. C.", "light"))
    page.locator(".row").click()
    playwright.expect(page.locator("#history")).to_contain_text("B. C., ")
    playwright.expect(page.locator(".row .done")).to_have_count(1)


def test_where_much_is_new_the_list_is_loaded_again(serving, opened):
    def prepare(page):
        no_pictures(page)
        rewriting(page, "renewing.js", "const AT_ONCE = 500", "const AT_ONCE = 1")

    stored(serving, 1)
    page = opened(prepare=prepare)
    for number in range(12):
        stored(serving, 2 + number, id=now_id(number))
    look_again(page)
    playwright.expect(page.locator("#shown")).to_have_text("13 of 13 cases")


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        ("atMost(0.10049)", "10.1 %"),
        ("atMost(0.1)", "10.0 %"),
        ("atMost(0.07)", "7.0 %"),
        ("atMost(0.29)", "29.0 %"),
        ("atMost(0.00001)", "0.1 %"),
        ("atMost(1)", "100.0 %"),
        ("percent(0.10049)", "10.0 %"),
        ("percent(0.0004)", "<0.1 %"),
        ("percent(0.9996)", ">99.9 %"),
        ("percent(0)", "0.0 %"),
        ("percent(1, 0)", "100 %"),
        ("percent(null)", "\N{EN DASH}"),
    ],
)
def test_bounds_are_rounded_up_and_nearly_is_not_wholly(call, shown, opened):
    page = opened()
    found = page.evaluate(f"() => import('./script/shared.js').then((one) => one.{call})")
    assert found == shown


def test_a_bound_and_a_risk_are_not_shown_as_better_than_they_are(serving, opened):
    stored(serving, 1, error=0.004)
    stored(serving, 2, error=0.996)

    def calibration(route):
        found = route.fetch().json()
        for one in found["settings"]:
            one["bound"] = 0.10049
        found["saved"]["threshold"] = found["settings"][0]["threshold"]
        route.fulfill(json=found)

    def prepare(page):
        no_pictures(page)
        page.route("**/calibration", calibration)

    page = opened(prepare=prepare)
    assert page.locator(".row .risk").all_inner_texts() == [">99 % risk", "<1 % risk"]
    page.locator("#setting summary").first.click()
    playwright.expect(page.locator("#fact-bound")).to_have_text("10.1 %")


@pytest.mark.parametrize("missing", ["foreign_score", "score", "error_probability"])
def test_no_target_accepts_what_is_no_finite_number(missing, serving, opened):
    answered = {"error": 0.02, "policy_fingerprint": serving.policy_fingerprint}
    stored(serving, 1, **answered, name="finite.png")
    stored(serving, 2, **answered | {missing: None}, name="odd.png")
    page = opened("#target=0.3", prepare=no_pictures)
    playwright.expect(page.locator(".row", has_text="was defer")).to_have_count(1)
    not_finite = page.locator(".row", has_text="odd.png")
    playwright.expect(not_finite.locator(".badge")).to_have_text("defer")


def test_the_banner_says_what_raised_the_alarm_and_what_is_so_now(opened):
    def turn(route):
        found = route.fetch().json()
        for one in found["tests"]:
            one |= {
                "since": "2026-01-01T00:00:00Z",
                "alarmed_with": "Less sure.",
                "sentence": "More.",
            }
        route.fulfill(json=found | {"alarm": True})

    page = opened(prepare=lambda page: page.route("**/drift", turn))
    first = page.locator("#drift-tests li").first
    assert re.match(r"Less sure\. Alarm since .* Now: More\.$", first.text_content())


def test_on_a_phone_the_next_case_is_shown_from_its_top(opened):
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    choose(page, shades())
    page.locator(".row").first.tap()
    page.locator("#agree").tap()
    playwright.expect(page.locator("#case-name")).to_have_text("middling.png")
    playwright.expect(page.locator("#case-name")).to_be_in_viewport()
    page.locator("#undo").tap()
    playwright.expect(page.locator("#case-name")).to_have_text("doubtful.png")


def test_the_keys_dialog_begins_at_close_so_that_no_key_switches_keys_off(opened):
    page = opened()
    page.keyboard.press("?")
    playwright.expect(page.get_by_role("button", name="Close")).to_be_focused()


def test_a_list_of_what_is_not_reviewed_goes_on_with_what_was_not_loaded(serving, opened):
    for number in range(6):
        stored(serving, number, error=0.4 - number / 100)
    page = opened("#reviewed=no", prepare=few_are_loaded)
    playwright.expect(page.locator("#shown")).to_contain_text("4 of 6 cases; 2 more")
    page.locator("#list").focus()
    page.keyboard.press("j")
    page.keyboard.press("a")
    playwright.expect(page.locator("#shown")).to_have_text(
        "4 of 6 cases; 1 more fit and are not loaded"
    )
    assert names(page) == ["1.png", "2.png", "3.png", "4.png"]
