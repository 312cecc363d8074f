"""Take the screenshots of the triage page in README.md and docs/deployment.md.

    misgiving serve bundle --store sqlite:///new.sqlite     # as README.md says
    python docs/take_pictures.py http://127.0.0.1:8000 runs/reproduce/examples --out docs

Sends the images of a folder, reviews one of them, and takes screenshots of a wide screen (light and
dark) and of a phone. Needs Debian's chromium.
"""

import argparse
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

WIDE = {"width": 1400, "height": 900}
PHONE = {"width": 390, "height": 780}
GROUND = (119, 128, 138)
GAP = 24


def main() -> None:
    """Send images to a service and take the screenshots."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", help="URL of the service")
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    asked = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        with page_of(browser, asked.address, viewport=WIDE) as page:
            send(page, asked.images)
            review(page)
        for scheme in ("light", "dark"):
            with page_of(browser, asked.address, viewport=WIDE, color_scheme=scheme) as page:
                wide(page).save(asked.out / f"page-{scheme}.png", optimize=True)
        with page_of(
            browser, asked.address, viewport=PHONE, is_mobile=True, has_touch=True
        ) as page:
            phone(page).save(asked.out / "page-phone.png", optimize=True)
        browser.close()


@contextmanager
def page_of(browser: Browser, address: str, **context: Any) -> Iterator[Page]:
    """Open the page and wait until it is ready."""
    page = browser.new_page(**context)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()


def send(page: Page, images: Path) -> None:
    """Send a folder, and wait for all decisions."""
    page.locator("#folder").set_input_files(images)
    page.wait_for_selector("#sending", state="visible")
    page.wait_for_selector("#sending", state="hidden", timeout=120_000)


def review(page: Page) -> None:
    """Correct with the keyboard a nine that the model takes for an eight."""
    page.locator(".row", has_text="unseen-9").first.click()
    page.locator("#list").focus()
    page.keyboard.press("9")
    page.wait_for_selector(".row .done")


def wide(page: Page) -> Image.Image:
    """The slider, the deferred cases, and one of them with its important regions."""
    page.locator("#setting summary").first.click()
    page.locator("[name=decision][value=defer]").check()
    page.locator(".row").first.click()
    page.locator("#saliency").click()
    page.wait_for_selector("#heat", state="visible", timeout=60_000)
    page.evaluate("() => scroll(0, 0)")
    return picture(page)


def phone(page: Page) -> Image.Image:
    """The worklist and a deferred case, side by side."""
    worklist = picture(page)
    page.locator("[name=decision][value=defer]").check()
    page.locator(".row").first.click()
    page.wait_for_function("() => document.getElementById('case-image').naturalWidth > 0")
    case = picture(page)
    both = Image.new("RGB", (worklist.width + GAP + case.width, case.height), GROUND)
    both.paste(worklist, (0, 0))
    both.paste(case, (worklist.width + GAP, 0))
    return both


def picture(page: Page) -> Image.Image:
    """A screenshot of the visible part."""
    page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
