"""Take the pictures of the documentation: figures of the gallery, the triage page, a report.

    mkdocs build && python docs/take_pictures.py figures site/gallery
    python docs/take_pictures.py photos photos       # and `new-photos` beside it, without labels
    misgiving train folder:photos --out run --backbone vgg16_mini --no-pretrained --image-size 48
    misgiving calibrate run folder:photos --max-error 0.03
    misgiving export run --out bundle
    misgiving serve bundle --store sqlite:///new.sqlite --keep-images kept
    python docs/take_pictures.py page http://127.0.0.1:8000 --images new-photos
    misgiving evaluate digits.csv --policy policy --out report               # as README.md says
    python docs/take_pictures.py report report/report.html

The page is shown on a wide screen in the light scheme, on a smaller one in the dark scheme, and on
a phone in both; the report in the light scheme alone. Needs Debian's chromium.
"""

import argparse
import io
import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

FIGURES = {"photographs": 1000, "five_percent": 560}  # and their widths
PARTS = {"train": (2000, False), "val": (1500, True), "test": (300, True)}  # details, right half
SIZES = {1400: 900, 1280: 720, 390: 780}
COLOURS = 96
GROUND = (119, 128, 138)
GAP = 24


def main() -> None:
    """Take the pictures of one subject."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("subject", choices=("figures", "photos", "page", "report"))
    parser.add_argument("address", help="URL of the service, file of the report, or folder")
    parser.add_argument("--images", type=Path, help="folder to send to the service first")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    if options.subject == "figures":
        for name, width in FIGURES.items():
            figure = Image.open(Path(options.address) / f"{name}.png")
            figure.thumbnail((width, width))
            save(figure, options.out / f"{name}.png")
    elif options.subject == "photos":
        write_photos(Path(options.address))
    else:
        take(options)


def write_photos(folder: Path) -> None:
    """Write a split of details of photographs, and a folder of new ones without labels."""
    gallery = runpy.run_path(str(Path(__file__).parent / "gallery" / "photographs.py"))
    for seed, (part, (count, right)) in enumerate(PARTS.items(), start=1):
        drawn = gallery["details"](count, right=right, side=160, seed=seed)
        for row, (pixels, name) in enumerate(zip(*drawn, strict=True)):
            path = folder / part / name / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    new = folder.with_name(f"new-{folder.name}")
    new.mkdir()
    for row, pixels in enumerate(gallery["details"](60, right=True, side=320, seed=4)[0]):
        Image.fromarray(pixels).save(new / f"photo-{row:02}.png")


def take(options: argparse.Namespace) -> None:
    """Take the pictures of a page in a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        if options.images:
            with page_of(browser, options.address, 1400, "light") as page:
                send(page, options.images)
                review(page)
        for name, image in pictures(browser, options):
            save(image, options.out / f"{options.subject}-{name}.png")
        browser.close()


def save(image: Image.Image, path: Path) -> None:
    """Write a file of less than 150 kB."""
    small = image.convert("RGB")
    few = small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, 1, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def pictures(browser: Browser, options: argparse.Namespace) -> Iterator[tuple[str, Image.Image]]:
    """The pictures of the subject by name."""
    show = {"page": triage_page, "report": top}[options.subject]

    def take(width: int, scheme: str) -> list[Image.Image]:
        with page_of(browser, options.address, width, scheme) as page:
            return list(show(page))

    yield "light", beside(*take(1400, "light"))
    if options.subject == "report":
        return
    yield "dark", beside(*take(1280, "dark"))
    light, dark = take(390, "light"), take(390, "dark")
    yield "phone", beside(light[0], dark[-1])


@contextmanager
def page_of(browser: Browser, address: str, width: int, scheme: str) -> Iterator[Page]:
    """Open a page."""
    size = {"width": width, "height": SIZES[width]}
    options: dict[str, Any] = {"viewport": size, "color_scheme": scheme}
    if width < 500:
        options |= {"is_mobile": True, "has_touch": True}
    page = browser.new_page(**options)
    page.goto(address if "://" in address else Path(address).resolve().as_uri())
    yield page
    page.close()


def send(page: Page, images: Path) -> None:
    """Send a folder, and wait for all decisions."""
    page.wait_for_selector("body[data-ready]")
    page.locator("#folder").set_input_files(images)
    page.wait_for_selector("#sending", state="visible")
    page.wait_for_selector("#sending", state="hidden", timeout=120_000)


def review(page: Page) -> None:
    """Choose a class for the riskiest of the deferred."""
    page.locator("#reviewed").select_option("all")
    page.locator("[name=decision][value=defer]").check()
    page.locator(".row").first.click()
    page.locator("#classes button").first.click()
    page.wait_for_selector(".row .done")


def triage_page(page: Page) -> Iterator[Image.Image]:
    """An unfamiliar case, and the slider; on a phone the list before it."""
    page.wait_for_selector("body[data-ready]")
    phone = page.evaluate("() => innerWidth < 821")
    if phone:
        yield picture(page)
    else:
        page.locator("#setting summary").first.click()
    page.locator(".row", has_text="unfamiliar").first.click()
    page.wait_for_function("() => document.getElementById('case-image').naturalWidth > 0")
    page.evaluate("() => scroll(0, 0)")
    yield picture(page)


def top(page: Page) -> Iterator[Image.Image]:
    """The beginning of a document."""
    yield picture(page)


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures side by side."""
    width = sum(one.width + GAP for one in pictures) - GAP
    both = Image.new("RGB", (width, max(one.height for one in pictures)), GROUND)
    left = 0
    for one in pictures:
        both.paste(one, (left, 0))
        left += one.width + GAP
    return both


def picture(page: Page) -> Image.Image:
    """A screenshot of the visible part."""
    page.wait_for_timeout(500)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
