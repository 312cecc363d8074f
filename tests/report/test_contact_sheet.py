import base64
import io

import numpy as np
import pandas as pd
from answers import FILE_NAME, decision_row
from elements import parse
from PIL import Image

from misgiving.report import contact_sheet as module
from misgiving.report.contact_sheet import contact_sheet, worst_first


def test_the_ood_come_first_and_then_the_least_certain(predicted):
    names = [path.rsplit("/", 1)[1] for path in worst_first(predicted)["path"]]
    assert names == ["stranger.png", "ood.png", FILE_NAME, "mild.png"]
    without_score = {**decision_row("defer", 0.5), "acceptance_score": np.nan}
    rows = [{**without_score, "probability": probability} for probability in (0.9, None, 0.4)]
    assert worst_first(pd.DataFrame(rows)).index.tolist() == [1, 2, 0]


def test_the_sheet_holds_all_that_it_shows_and_names_are_never_markup(predicted, monkeypatch):
    page = parse(contact_sheet(predicted))
    assert "script" not in page.tags
    assert all(text in page.text for text in (FILE_NAME, "less < more", "a&b"))
    assert "Of 5 images: 1 accept, 2 defer, 2 ood." in page.text
    assert len(page.images) == 4
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    thumbnail = Image.open(io.BytesIO(base64.b64decode(page.links[0].split(",")[1])))
    assert thumbnail.size == (240, 120)
    monkeypatch.setattr(module, "MAX_IMAGES", 3)  # that a browser scrolls through
    page = parse(contact_sheet(predicted))
    assert "The 3 worst of 4 are shown." in page.text
    assert len(page.images) == 3


def test_an_image_that_is_gone_or_damaged_by_now_leaves_its_answer_on_the_sheet(damaged_sheet):
    page = parse(damaged_sheet)
    assert len(page.images) == 2
    assert page.text.count("The file can no longer be read.") == 2
    assert "mild.png" in page.text
