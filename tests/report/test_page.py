import re
import shutil

import pytest
from elements import parse
from fabricated import ALWAYS, BLANK
from PIL import Image

from misgiving.errors import DataError
from misgiving.report.inputs import read_inputs, select
from misgiving.report.page import render_page, write_report

CLAIMS = 5
OPEN = {
    "margin of Eq. 1": "1",
    "reduction of Eq. 1": "mean (the sum, as printed, is 4,032 times as large at a batch of 64)",
    "learning-rate decay in 4.2 and 4.3": "as in 4.1",
    "strengths of the augmentation": "flips yes, jitter 0.2, rotation 180, translation 0.1",
    "criterion of ODIN's tuning": "highest AUROC",
}


def read(folder):
    """The page without its figures, which take most of the time."""
    return parse(render_page(read_inputs(folder), BLANK))


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
    assert figures == {f"{name}.{kind}" for name in ALWAYS for kind in ("png", "svg")}


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


def test_vector_figures_load_nothing_either(report):
    html = report.read_text(encoding="utf-8")
    assert html.count("<svg ") == len(ALWAYS) - 1
    assert not re.findall(r'href="(?!#)(?!data:)|url\((?!#)', html)


def test_no_two_elements_have_one_id(report):
    ids = re.findall(r'\sid="([^"]*)"', report.read_text(encoding="utf-8"))
    assert sorted(set(ids)) == sorted(ids)


def test_links_within_the_page_have_a_target(reader):
    assert {link[1:] for link in reader.links if link.startswith("#")} <= reader.ids


def test_every_figure_has_words_for_those_who_cannot_see_it(reader):
    words = [image["alt"] for image in reader.images] + reader.labels
    assert len(words) == len(ALWAYS)
    assert all(len(text) > 20 for text in words)


def test_text_from_the_settings_is_shown_and_not_executed(folder, change_settings):
    hostile = "<script>alert('$title')</script>"
    change_settings(notes=(hostile,), versions={hostile: hostile}, data=hostile)
    reader = read(folder)
    assert reader.texts("li").count(hostile) == 1
    assert len(reader.texts("script")) == 1
    assert hostile not in reader.texts("script")[0]


def test_every_claim_of_the_paper_has_its_verdict(reader):
    assert reader.texts("td", "verdict inconclusive") == ["inconclusive"] * CLAIMS


def test_the_summary_counts_the_claims_of_each_status(reader):
    assert "Of 5 claims of the paper: 5 inconclusive." in reader.texts("p", "")


def test_a_cell_shows_the_mean_over_trials_in_percent(reader, results):
    cell = {"experiment": "ood_detection", "dataset": "boxes", "detector": "odin"}
    rows = select(results, model="vanilla", metric="aupr_out", **cell)
    mean = sum(row.value for row in rows) / len(rows)
    assert f"{100 * mean:.1f}" in reader.texts("td", "number")


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


def test_the_choices_of_tuning_for_odin_are_listed(reader):
    notes = " ".join(reader.texts("p", "note"))
    assert "vanilla 10 / 0.0014 in each" in notes


def test_a_choice_that_differs_between_trials_is_listed_for_each(rewrite, results):
    rows = [
        row._replace(value=50.0) if (row.metric, row.trial) == ("temperature", 2) else row
        for row in results
    ]
    notes = " ".join(read(rewrite(rows)).texts("p", "note"))
    assert "vanilla 10 / 0.0014, 10 / 0.0014, 50 / 0.0014" in notes


def test_the_other_detectors_are_folded_away(report):
    html = report.read_text(encoding="utf-8")
    folds = re.findall(r"<details>(.*?)</details>", html, re.DOTALL)
    (folded,) = [text for text in folds if "Every detector on every set" in text]
    assert folded.count("<table>") == len(("vanilla", "mse", "detached", "proposed"))
    assert "predicted loss" in folded


def test_choices_that_the_paper_leaves_open_are_told(reader):
    texts = [text.strip() for _, _, text in reader.found]
    told = {name: texts[texts.index(name) + 1] for name in texts if name in OPEN}
    assert told == OPEN


def test_examples_are_found_for_sets_with_a_slash_in_their_name(finished):
    names = [examples.name for examples in read_inputs(finished).examples]
    assert "unseen: BKL" in names


def test_examples_stand_in_the_order_of_their_numbers(folder):
    boxes = folder / "examples" / "boxes"
    for number in range(2, 11):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(boxes / f"{number}.png")
    found = next(row for row in read_inputs(folder).examples if row.name == "boxes")
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
    "name",
    ["results.csv", "intervals.csv", "histories.csv", "confusions.csv", "datasets.json",
     "settings.json"],
)  # fmt: skip
def test_a_missing_file_is_refused_by_name_and_with_a_remedy(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}.*run"):
        read_inputs(folder)


def test_missing_examples_and_histories_are_named(rewrite):
    folder = rewrite(histories=[])
    shutil.rmtree(folder / "examples")
    assert "histories.csv, experiment generalization: every model" in missing(folder)
    assert "example images" in missing(folder)


def test_without_bootstrap_intervals_no_harm_is_listed_and_claims_are_judged(rewrite):
    reader = read(rewrite(intervals=[]))
    assert len(reader.texts("td", "verdict inconclusive")) == CLAIMS
    assert any("No metric of a claim is worse" in text for text in reader.texts("p", ""))


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


def test_names_that_are_markup_are_shown_and_not_executed(folder):
    """Names of classes come from folders, and names of images from files."""
    name, hostile = "BCC", "<img src=x onerror=alert(1)><script>alert(2)</script>"
    changed = [path for path in folder.rglob("*") if path.suffix in (".csv", ".json")]
    for path in changed:
        path.write_text(path.read_text(encoding="utf-8").replace(name, hostile), encoding="utf-8")
    reader = read(folder)
    assert len(reader.texts("script")) == 1
    assert not any("onerror" in image for image in reader.images)
    assert any(hostile in text for _, _, text in reader.found)
