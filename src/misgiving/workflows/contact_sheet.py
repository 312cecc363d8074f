"""One HTML file to look through: the images that were not accepted, worst first."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from misgiving.data.decoding import decode, read_bytes
from misgiving.errors import DataError
from misgiving.results.decision_tables import DecisionRow

MOST = 500  # images on a sheet, which a browser still scrolls through
SIDE = 240  # of a thumbnail, in pixels

STYLE = """
:root { color-scheme: light dark; --card: #fff; --ink: #1b1f24; --soft: #667; --page: #f4f5f7;
  --bar: #d9dde3; --defer: #8a5a12; --ood: #b83232; }
@media (prefers-color-scheme: dark) { :root { --card: #20242b; --ink: #e8eaed; --soft: #9aa4b2;
  --page: #14171b; --bar: #3a404a; --defer: #8f5e14; --ood: #c03a3a; } }
body { margin: 0; padding: 2rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, sans-serif; }
header { max-width: 60rem; margin-bottom: 1.5rem; } h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; color: var(--soft); }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
article { background: var(--card); border-radius: .6rem; overflow: hidden;
  box-shadow: 0 1px 3px #0003; display: flex; flex-direction: column; }
img { width: 100%; height: 12rem; object-fit: contain; background: #000; }
.gone { display: grid; place-items: center; height: 12rem; background: var(--bar); }
.text { padding: .7rem .9rem .9rem; } .top { display: flex; justify-content: space-between;
  gap: .5rem; align-items: baseline; } strong { overflow-wrap: anywhere; }
.tag { color: #fff; border-radius: 1rem; padding: 0 .6rem; font-size: .8rem; }
.defer { background: var(--defer); } .ood { background: var(--ood); }
.bar { background: var(--bar); border-radius: .3rem; height: .45rem; margin: .5rem 0 .2rem; }
.bar i { display: block; height: 100%; border-radius: .3rem; background: #3b7dd8; }
.name { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
"""


def contact_sheet(decisions: Sequence[DecisionRow]) -> str:
    """The sheet of deferred and OOD images; files are read again for their thumbnails."""
    shown = worst_first(decisions)
    cards = "\n".join(map(_card, shown[:MOST]))
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Not accepted: {len(shown)} images</title>\n<style>{STYLE}</style>\n"
        f"<header><h1>Not accepted</h1>\n{_summary(decisions, len(shown))}</header>\n"
        f"<main>\n{cards}\n</main>\n</html>\n"
    )


def worst_first(decisions: Sequence[DecisionRow]) -> list[DecisionRow]:
    """Deferred and OOD images: OOD first, then by descending probability of error."""
    return sorted((one for one in decisions if one.decision in ("defer", "ood")), key=_rank)


def _rank(one: DecisionRow) -> tuple[bool, float]:
    if one.decision == "ood":
        return False, one.ood_p_value or 0.0
    if one.error_probability is not None:
        return True, -one.error_probability
    return True, -3.0 if one.probability is None else one.probability - 2


def _summary(decisions: Sequence[DecisionRow], shown: int) -> str:
    counts = Counter(one.decision for one in decisions if one.decision is not None)
    told = ", ".join(f"{counts[name]} {name}" for name in ("accept", "defer", "ood"))
    cut = f" The {MOST} worst of {shown} are shown." if shown > MOST else ""
    return (
        f"<p>Of {counts.total()} images: {told}. OOD images come first, then those that are "
        f"most probably wrong.{cut}</p>\n"
    )


def _card(one: DecisionRow) -> str:
    percent = f"{100 * (one.probability or 0.0):.0f}"
    kind = escape(one.decision or "")
    return (
        f"<article>{_picture(Path(one.path))}\n"
        '<div class="text"><div class="top">'
        f"<strong>{escape(one.predicted_class or '')}</strong>"
        f'<span class="tag {kind}">{kind}</span></div>\n'
        f'<div class="bar" title="probability {percent} %"><i style="width: {percent}%"></i></div>'
        f'\n<div class="name">probability of the class {percent} %</div>'
        f"<p>{escape(one.reason or '')}</p>\n"
        f'<div class="name">{escape(one.path)}</div></div></article>'
    )


def _picture(path: Path) -> str:
    """The image, or that it is gone: its file may have been moved since it was answered."""
    try:
        return f'<img loading="lazy" alt="" src="{_thumbnail(path)}">'
    except DataError:
        return '<div class="gone">The file can no longer be read.</div>'


def _thumbnail(path: Path) -> str:
    """The image as a link that holds it."""
    image = Image.fromarray(decode(read_bytes(path), str(path)))
    image.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
