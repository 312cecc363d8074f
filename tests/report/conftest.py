import numpy as np
import pandas as pd
import pytest
from answers import FILE_NAME, HOSTILE, decision_row, predictions
from PIL import Image

from misgiving import Deferral
from misgiving.evaluation.evaluate import evaluate
from misgiving.report.contact_sheet import contact_sheet
from misgiving.report.evaluation import write_report


@pytest.fixture(scope="session")
def deferral():
    rules = {"ood_detector": "max_logit", "max_ood_false_alarms": 0.1, "max_error_probability": 0.6}
    return Deferral(max_error=0.3, **rules).fit(predictions(300, seed=1), predictions(300, seed=2))


@pytest.fixture(scope="session")
def hostile_page(deferral, tmp_path_factory):
    """A page with every part: folded groups, unreadable images, OOD sets, a policy, readers."""
    picture = np.full((30, 400, 3), 90, np.uint8)
    columns = {
        f"site {HOSTILE} {k}": [f"no. {row // 2 % k}" for row in range(240)] for k in (9, 10, 11)
    }
    columns |= {f"reader_{name}": [*map(str, np.arange(240) % 3)] for name in (HOSTILE, "bo")}
    given = predictions(240, set=["test", "tune"] * 120, **columns)
    evaluation = evaluate(given, deferral, ood={HOSTILE: predictions(seed=5)}, readers=True)
    path = write_report(
        evaluation,
        tmp_path_factory.mktemp("report") / "report.html",
        title=HOSTILE,
        pictures=lambda identity: picture if "3" in identity else None,
    )
    return path.read_text(encoding="utf-8")


@pytest.fixture
def predicted(tmp_path):
    rows = {
        "accepted.png": decision_row("accept", 0.01),
        "mild.png": decision_row("defer", 0.2),
        FILE_NAME: decision_row("defer", 0.9),
        "ood.png": decision_row("ood", 0.1, p_value=0.01),
        "stranger.png": decision_row("ood", 0.1, p_value=0.001),
    }
    for name in rows:
        Image.fromarray(np.full((300, 600, 3), 200, np.uint8)).save(tmp_path / name)
    unreadable = {"path": "unreadable.png", "unreadable": "not an image"}
    paths = ({**row, "path": str(tmp_path / name)} for name, row in rows.items())
    return pd.DataFrame([*paths, unreadable])


@pytest.fixture
def damaged_sheet(predicted, tmp_path):
    (tmp_path / "mild.png").unlink()
    (tmp_path / "ood.png").write_bytes(b"no image")
    return contact_sheet(predicted)
