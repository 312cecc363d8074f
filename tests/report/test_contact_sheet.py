import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from misgiving.deferral.decision_tables import DecisionRow
from misgiving.report import contact_sheet as module
from misgiving.report.contact_sheet import contact_sheet, worst_first

NAME = "<script>alert(1)</script>.png".replace("/", "-")


def row(decision, error, *, p_value=0.5):
    return DecisionRow(
        path="",
        predicted_class="a&b",
        probability=0.6,
        decision=decision,
        reason="less < more",
        error_probability=error,
        ood_p_value=p_value,
    )


@pytest.fixture
def predicted(tmp_path):
    rows = {
        "accepted.png": row("accept", 0.01),
        "mild.png": row("defer", 0.2),
        NAME: row("defer", 0.9),
        "ood.png": row("ood", 0.1, p_value=0.01),
        "stranger.png": row("ood", 0.1, p_value=0.001),
    }
    for name in rows:
        Image.fromarray(np.full((300, 600, 3), 200, np.uint8)).save(tmp_path / name)
    return [
        *(row._replace(path=str(tmp_path / name)) for name, row in rows.items()),
        DecisionRow("unreadable.png", unreadable="not an image"),
    ]


class Page(HTMLParser):
    """Collects tags, pictures and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.pictures, self.links, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.pictures.append(dict(attributes)["src"])
        self.links += [value for key, value in attributes if key in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_the_ood_come_first_and_then_the_most_probably_wrong(predicted):
    names = [one.path.rsplit("/", 1)[1] for one in worst_first(predicted)]
    assert names == ["stranger.png", "ood.png", NAME, "mild.png"]


def test_an_image_without_a_probability_of_error_is_ordered_by_its_own():
    rows = enumerate([0.9, None, 0.4])
    ordered = worst_first(
        [row("defer", None)._replace(path=str(n), probability=p) for n, p in rows]
    )
    assert [one.path for one in ordered] == ["1", "2", "0"]


def test_names_and_reasons_are_text_and_never_markup(predicted):
    page = Page(contact_sheet(predicted))
    assert "script" not in page.tags
    assert NAME in page.text
    assert "less < more" in page.text
    assert "a&b" in page.text


def test_the_sheet_holds_all_that_it_shows(predicted):
    page = Page(contact_sheet(predicted))
    assert len(page.pictures) == 4
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    thumbnail = Image.open(io.BytesIO(base64.b64decode(page.pictures[0].split(",")[1])))
    assert thumbnail.size == (240, 120)


def test_the_sheet_says_how_many_of_each_there_are_and_how_many_it_shows(predicted, monkeypatch):
    assert "Of 5 images: 1 accept, 2 defer, 2 ood." in Page(contact_sheet(predicted)).text
    monkeypatch.setattr(module, "MAX_IMAGES", 3)
    page = Page(contact_sheet(predicted))
    assert "The 3 worst of 4 are shown." in page.text
    assert len(page.pictures) == 3


def test_an_image_that_is_gone_or_damaged_by_now_leaves_its_answer_on_the_sheet(
    predicted, tmp_path
):
    (tmp_path / "mild.png").unlink()
    (tmp_path / "ood.png").write_bytes(b"no image")
    page = Page(contact_sheet(predicted))
    assert len(page.pictures) == 2
    assert page.text.count("The file can no longer be read.") == 2
    assert "mild.png" in page.text


def luminance(colour):
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", ["defer", "ood"])
def test_the_text_of_a_tag_can_be_read_in_light_and_dark(kind):
    sheet = contact_sheet([])
    texts, grounds = (
        re.findall(rf"--{name}: (#[0-9a-f]{{6}})", sheet) for name in (kind, f"{kind}-ground")
    )
    assert len(texts) == len(grounds) == 2
    for pair in zip(texts, grounds, strict=True):
        darker, lighter = sorted(map(luminance, pair))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5
