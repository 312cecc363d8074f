"""Shared by the tests of the page, which run in a real browser against the real service."""

from datetime import UTC, datetime

from browsing import SIZES, playwright, violations
from standin import START, case, picture, review

expect = playwright.expect
BLUES = {"sure": 0.02, "doubtful": 0.45, "middling": 0.3, "quite": 0.12}
GREEN = (0, 255, 0)


def files(images):
    return [
        {"name": name, "mimeType": "image/png", "buffer": data} for name, data in images.items()
    ]


def shades(levels=BLUES):
    """Images by name; the level is also the error probability."""
    return {f"{name}.png": picture(level) for name, level in levels.items()}


def choose(page, images):
    count = len(images) + page.locator(".row").count()
    page.locator("#files").set_input_files(files(images))
    expect(page.locator(".row")).to_have_count(count)


def reload(page):
    page.reload()
    page.wait_for_selector("body[data-ready]")


def barriers(page):
    """Violations of WCAG 2.1 AA that axe finds in light and dark and on a phone, and double ids."""
    page.set_viewport_size(SIZES["phone"])
    found = violations(page, ("light",))  # the colours are the same
    page.set_viewport_size(SIZES["wide"])
    found += violations(page)
    identities = page.evaluate("() => [...document.querySelectorAll('[id]')].map((it) => it.id)")
    return [*found, *(name for name in set(identities) if identities.count(name) > 1)]


def stored(page_service, number, *, error=0.3, reviewed_by=None, **values):
    """Store a case as if another process, whose clock is far behind, had decided it."""
    probability = None if error is None else 1 - error
    numbers = {"error_probability": error, "probability": probability}
    fixed = {
        "name": f"{number}.png",
        "predicted_class": "dark",
        "probabilities": {"dark": 0.7, "light": 0.3},
        "decision": "defer",
        "acceptance_score": probability,
        "model_fingerprint": "f" * 64,
    }
    row = case(number, **(fixed | numbers | values))
    page_service.store.add([row])
    if reviewed_by:
        page_service.store.review(row.id, said_by(reviewed_by))
    return row


def stored_blind(page_service, number, **values):
    """Store a blind case of the audit sample: accepted, if nothing else is said."""
    fixed = {"decision": "accept", "error": 0.02, "audited": True, "blind": True, "position": 0.3}
    fixed["received"] = datetime.now(UTC)
    policy = {"policy_fingerprint": page_service.service.policy_fingerprint}
    return stored(page_service, number, **(fixed | policy | values))


def stored_wrong(service, count):
    """Accepted cases that two readers find wrong."""
    for number in range(count):
        row = stored_blind(service, number)
        for reader in ("Ann", "Ben"):
            answer = {"verdict": "none", "final_class": None, "reviewer": reader}
            service.store.review(row.id, review("", **answer))


def said_by(reviewer, final_class="dark"):
    """A review, as if the clock of another process were far behind."""
    verdict = "agree" if final_class == "dark" else "override"
    values = {"verdict": verdict, "final_class": final_class, "reviewer": reviewer}
    return review("", **values, reviewed_at=START)


def no_pictures(page):
    """Serve a blank thumbnail, for cases that are only in the store."""
    pixel = {"body": "<svg xmlns='http://www.w3.org/2000/svg'/>", "content_type": "image/svg+xml"}
    page.route("**/thumbnail", lambda route: route.fulfill(**pixel))


def wait_for_image(page):
    page.wait_for_function("() => document.getElementById('case-image').complete")


def press(page, *keys):
    """Press keys one after the other, each with the image on the screen."""
    for key in keys:
        wait_for_image(page)
        page.keyboard.press(key)


def names(page):
    return page.locator(".row .file").all_inner_texts()
