import base64
import re
import shutil
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from misgiving.errors import DataError
from misgiving.report.inputs import read_material
from misgiving.report.page import render_page, write_report
from misgiving.report.page.estimation import estimation_sentence
from misgiving.report.tables import Result, ResultInterval, select

CLAIMS = 7
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """Gathers what stands in each kind of element, and elements that are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.found, self.images, self.links, self.ids = [], [], [], [], set()
        self.disordered = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.ids.add(attributes.get("id"))
        self.images += [attributes] if tag == "img" else []
        self.links += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag not in VOID:
            self.open.append((tag, attributes.get("class", "")))

    def handle_endtag(self, tag):
        if self.open.pop()[0] != tag:
            self.disordered.append(tag)

    def handle_data(self, data):
        if self.open:
            self.found.append((*self.open[-1], data))

    def texts(self, tag, kind=None):
        return [text for name, its, text in self.found if name == tag and kind in (its, None)]


def parse(html):
    reader = Reader()
    reader.feed(html)
    return reader


def read(folder):
    """The page without its figures, which take most of the time."""
    blank = dict.fromkeys(("figure-2", "figure-3", "figure-4", "figure-5"), Figure(figsize=(1, 1)))
    return parse(render_page(read_material(folder), blank))


def missing(folder):
    return " ".join(read(folder).texts("p", "missing"))


def without(rows, **unwanted):
    dropped = set(select(rows, **unwanted))
    return [row for row in rows if row not in dropped]


@pytest.fixture(scope="module")
def report(finished):
    return write_report(finished)


@pytest.fixture(scope="module")
def reader(report):
    return parse(report.read_text(encoding="utf-8"))


def test_the_report_and_its_figures_are_written(finished, report):
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert report == finished / "report.html"
    assert figures == {f"figure-{k}.{kind}" for k in (2, 3, 4, 5) for kind in ("png", "svg")}


def test_writing_again_gives_the_same_bytes(finished, report):
    files = [report, *(finished / "figures").iterdir()]
    before = [path.read_bytes() for path in files]
    write_report(finished)
    assert [path.read_bytes() for path in files] == before


def test_the_report_is_small_enough_to_send(report):
    assert report.stat().st_size < 2_000_000


def test_elements_are_closed_in_order(reader):
    assert reader.open == []
    assert reader.disordered == []


def test_nothing_is_loaded_from_elsewhere(reader):
    links = reader.links
    assert all(link.startswith(("data:image/", "#")) for link in links)


def test_embedded_vector_figures_load_nothing_either(reader):
    vectors = [link for link in reader.links if link.startswith("data:image/svg+xml")]
    for link in vectors:
        drawing = base64.b64decode(link.partition(",")[2]).decode()
        assert not re.findall(r'href="(?!#)(?!data:)', drawing)


def test_links_within_the_page_have_a_target(reader):
    assert {link[1:] for link in reader.links if link.startswith("#")} <= reader.ids


def test_every_figure_has_words_for_those_who_cannot_see_it(reader):
    images = reader.images
    assert len(images) == 4
    assert all(len(image["alt"]) > 40 for image in images)


def test_text_from_the_settings_is_shown_and_not_executed(folder, change_settings):
    hostile = "<script>alert('$title')</script>"
    change_settings(notes=(hostile,), versions={hostile: hostile}, data=hostile)
    reader = read(folder)
    assert reader.texts("li").count(hostile) == 1
    assert reader.texts("script") == []


def test_every_claim_of_the_paper_stands_in_the_summary_with_its_verdict(reader):
    bold = reader.texts("strong")[:CLAIMS]
    assert [text.rpartition(": ")[2] for text in bold] == [
        "seen.", "seen.", "seen.", "seen.", "cannot be judged.", "seen in part.", "seen.",
    ]  # fmt: skip


def test_the_summary_counts_the_claims_under_each_verdict(reader):
    assert reader.texts("p", "")[0] == (
        "Of 7 claims of the paper, 5 seen, 1 seen in part, 1 cannot be judged."
    )


def test_a_cell_shows_the_mean_over_trials_in_percent(reader, results):
    cell = {"experiment": "ood_detection", "dataset": "boxes", "detector": "odin"}
    rows = select(results, model="vanilla", metric="aupr_out", **cell)
    mean = sum(row.value for row in rows) / len(rows)
    assert f"{100 * mean:.1f}" in reader.texts("td", "number")


@pytest.mark.parametrize(
    ("bounds", "best"),
    [
        ((0.01, 0.09), "proposed"),
        ((-0.09, -0.01), "vanilla"),
        ((-0.01, 0.09), ""),
        ((None,) * 2, ""),
    ],
)
def test_only_an_interval_without_zero_makes_a_value_bold(rewrite, bounds, best):
    cell = ("boxes", "odin", "auroc")
    values = {"vanilla": 0.711, "proposed": 0.722}
    rows = [Result("ood_detection", 0, name, *cell, value) for name, value in values.items()]
    row = ResultInterval("ood_detection", "proposed", "vanilla", *cell, 0.011, *bounds, 9, 1, False)
    bold = read(rewrite(rows, [row])).texts("strong")[CLAIMS:]
    assert bold == [f"{100 * value:.1f}" for name, value in values.items() if name == best]


def test_a_difference_without_an_interval_says_so(reader):
    assert "(no interval)" in reader.texts("small")


def test_only_the_set_that_tuned_odin_is_marked_as_tuned(reader):
    texts = [text for _, _, text in reader.found]
    marks = [
        texts[:place] for place, text in enumerate(texts) if text == "ODIN is tuned on this set"
    ]
    sets = ("histology", "photographs", "boxes", "clinical skin")
    owners = {next(text for text in reversed(before) if text in sets) for before in marks}
    assert owners == {"histology"}


def test_sets_stand_with_the_number_of_their_images_and_groups(reader):
    small = reader.texts("small")
    assert "230 images" in small
    assert "41 groups" in small


def test_what_tuning_chose_for_odin_is_told(reader):
    notes = " ".join(reader.texts("p", "note"))
    assert "vanilla 10 / 0.0014 in each" in notes


def test_a_choice_that_differs_between_trials_is_told_for_each(rewrite, results):
    rows = [
        row._replace(value=50.0) if (row.metric, row.trial) == ("temperature", 2) else row
        for row in results
    ]
    notes = " ".join(read(rewrite(rows)).texts("p", "note"))
    assert "vanilla 10 / 0.0014, 10 / 0.0014, 50 / 0.0014" in notes


def test_the_other_detectors_are_folded_away(report):
    html = report.read_text(encoding="utf-8")
    folded = re.findall(r"<details>(.*?)</details>", html, re.DOTALL)
    assert len(folded) == len(("vanilla", "mse", "detached", "proposed"))
    assert "predicted loss" in folded[-1]


def test_a_figure_names_the_open_choices_that_bear_on_it(reader):
    lines = reader.texts("p", "holds")
    assert lines[0].startswith("Holds for margin of Eq. 1: 1; pairs of Eq. 1: all ordered pairs")
    assert "checkpoint: last epoch" in lines[0]
    assert "AUPR" not in lines[0]


def test_examples_are_found_for_sets_with_a_slash_in_their_name(finished):
    names = [examples.name for examples in read_material(finished).examples]
    assert "unseen: BKL" in names


def test_examples_stand_in_the_order_of_their_numbers(folder):
    boxes = folder / "examples" / "boxes"
    for number in range(2, 11):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(boxes / f"{number}.png")
    found = next(row for row in read_material(folder).examples if row.name == "boxes")
    assert [picture[0, 0, 0] for picture in found.pictures[2:]] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("model", ["vanilla", "mse", "proposed"])
def test_a_missing_model_is_named(rewrite, results, model):
    said = missing(rewrite(without(results, model=model)))
    assert f"Missing in results.csv, experiment ood_detection: {model}." in said


@pytest.mark.parametrize("experiment", ["generalization", "ood_detection", "new_classes"])
def test_a_missing_experiment_is_named(rewrite, results, experiment):
    said = missing(rewrite(without(results, experiment=experiment)))
    assert f"Missing in results.csv, experiment {experiment}: every model." in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("histories.csv", "histories.csv, experiment generalization: every model"),
        ("datasets.json", "datasets.json"),
        ("settings.json", "settings.json: The run"),
        ("examples", "example images"),
    ],
)
def test_a_missing_file_is_named(folder, name, words):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert words in missing(folder)


def test_without_intervals_nothing_is_judged_but_collapse(folder):
    (folder / "intervals.csv").unlink()
    bold = read(folder).texts("strong")
    assert [text.rpartition(": ")[2] for text in bold[1:]] == ["cannot be judged."] * (CLAIMS - 1)


@pytest.mark.parametrize("detector", ["odin", "msp", "predicted_loss", ""])
def test_a_missing_detector_leaves_the_rest(rewrite, results, detector):
    assert read(rewrite(without(results, detector=detector))).images


def test_a_single_line_of_results_makes_a_report(rewrite, results):
    assert write_report(rewrite(results[:1], [], [])).exists()


@pytest.mark.parametrize("name", ["settings.json", "datasets.json", "examples/boxes/0.png"])
def test_a_damaged_file_is_refused_by_name_and_with_a_remedy(folder, name):
    (folder / name).write_text("[")
    with pytest.raises(DataError, match=rf"{name}.*run"):
        write_report(folder)


def test_settings_that_are_no_object_are_refused(folder):
    (folder / "settings.json").write_text("[]")
    with pytest.raises(DataError, match=r"settings\.json.*not of type dict"):
        write_report(folder)


def test_a_refused_folder_keeps_its_former_report(folder):
    (folder / "report.html").write_text("the former report")
    (folder / "results.csv").write_text("")
    with pytest.raises(DataError):
        write_report(folder)
    assert (folder / "report.html").read_text() == "the former report"


def test_no_partial_file_is_left(finished, report):
    assert report.exists()
    assert not [path for path in finished.rglob("*") if path.name.endswith(".partial")]


def estimate(detector, lower, upper):
    middle = None if lower is None else (lower + upper) / 2
    return ResultInterval(
        "generalization", "proposed", "", "validation", detector, "error_auroc",
        0.7 if middle is None else middle, lower, upper, 100, 3, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        ((0.80, 0.84), "a clearly higher AUROC for errors, 0.820 (0.800 to 0.840) against 0.720"),
        ((0.60, 0.69), "a clearly lower AUROC for errors"),
        ((0.65, 0.71), "no clearly different AUROC for errors"),
        ((0.73, 0.80), "no clearly different AUROC for errors"),
        ((None, None), "no clearly different AUROC for errors, 0.700 (no interval)"),
    ],
)
def test_predicted_loss_and_msp_are_told_apart_by_disjoint_intervals(predicted, words):
    rows = [estimate("predicted_loss", *predicted), estimate("msp", 0.70, 0.74)]
    assert words in estimation_sentence(rows)


def test_predicted_loss_and_msp_without_intervals_cannot_be_compared():
    assert "cannot be compared" in estimation_sentence([estimate("msp", 0.7, 0.74)])


def test_names_that_are_markup_are_shown_and_not_executed(folder):
    """Names of classes come from folders, and names of images from files."""
    name, hostile = "BCC", "<img src=x onerror=alert(1)><script>alert(2)</script>"
    changed = [path for path in folder.rglob("*") if path.suffix in (".csv", ".json")]
    for path in changed:
        path.write_text(path.read_text(encoding="utf-8").replace(name, hostile), encoding="utf-8")
    reader = read(folder)
    assert reader.texts("script") == []
    assert not any("onerror" in image for image in reader.images)
    assert any(hostile in text for _, _, text in reader.found)
