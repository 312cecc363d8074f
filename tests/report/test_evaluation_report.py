import re
from unittest.mock import Mock

import numpy as np
import pytest
from answers import HOSTILE, PETS, predictions
from elements import parse
from scipy.stats import beta, binomtest
from sklearn.metrics import confusion_matrix

from misgiving import Deferral, Predictions
from misgiving.deferral.sentences import certificate_sentences, percent, three_digits
from misgiving.evaluation.evaluate import evaluate
from misgiving.evaluation.shares import CurvePoint, Share
from misgiving.report.evaluation import confusion, findings, gallery, write_report
from misgiving.report.figures import acceptance_figure, histogram_figure, team_figure


@pytest.fixture(scope="module")
def evaluation(deferral):
    random = np.random.default_rng(3)
    flat = Predictions.of({"logits": random.normal(size=(40, 3)) / 9, "classes": PETS})
    return evaluate(predictions(), deferral, ood={"scans": flat})


def texts(evaluation):
    return dict(line.split(": ", 1) for line in findings(evaluation))


def interval(events, cases):
    ends = binomtest(int(events), int(cases)).proportion_ci(0.95, method="exact")
    return f"{percent(events / cases)} (95 % interval {percent(ends.low)} to {percent(ends.high)})"


def test_the_findings_with_decisions(evaluation):
    decided = evaluation.decisions.decisions
    accepted = decided == "accept"
    sentences = texts(evaluation)
    assert sentences["Acceptance"].startswith(
        f"the policy accepts {interval(accepted.sum(), 120)} of the images; of these, "
        f"{interval(evaluation.wrong[accepted].sum(), accepted.sum())} are wrong. It defers "
        f"{percent(np.mean(decided == 'defer'))} and calls {percent(np.mean(decided == 'ood'))} "
    )
    expected = three_digits(evaluation.deferral.certificate_.expected_error, up=True)
    assert f"at most 30 % of the accepted answers are wrong ({expected} " in sentences["Certified"]
    called_ood = evaluation.ood["scans"].decided["ood"].events
    assert sentences["OOD"].startswith(f"scans (40 images): {interval(called_ood, 40)} called ")


@pytest.mark.filterwarnings("ignore:Accepted. nothing")
def test_the_findings_where_nothing_is_certified_or_nothing_is_wrong():
    hopeless = Deferral(max_error=0.001).fit(predictions(60, seed=1), predictions(60, seed=2))
    sentences = texts(evaluate(predictions(), hopeless))
    assert sentences["Acceptance"].startswith("the policy accepts none of the 120 images.")
    assert sentences["Certified"].startswith("nothing: no threshold meets the targets")
    labels = np.arange(120) % 3
    perfect = evaluate(predictions(logits=10 * np.eye(3)[labels], label=labels))
    sentences = texts(perfect)
    assert sentences["Accuracy"].startswith("100 % (95 % interval 97.0 % to 100 %)")
    assert sentences["Acceptance"] == "no answer is wrong, so any share can be accepted."
    assert not len(gallery(perfect)[0])


def test_confusions_of_many_classes_keep_those_with_most_errors():
    random = np.random.default_rng(3)
    true = random.integers(100, size=4000)
    predicted = np.where(random.random(4000) < true / 100, random.integers(100, size=4000), true)
    counts = confusion_matrix(true, predicted, labels=range(100))
    counts, names = confusion([f"c{k}" for k in range(100)], counts)
    assert (len(names), names[-1]) == (16, "85 others")
    most = [int(name[1:]) for name in names[:-1]]
    both = (np.where(np.isin(classes, most), classes, 100) for classes in (true, predicted))
    np.testing.assert_array_equal(counts, confusion_matrix(*both, labels=[*most, 100]))
    errors = [((true == k) ^ (predicted == k)).sum() for k in range(100)]
    assert min(errors[k] for k in most) >= max(errors[k] for k in set(range(100)) - set(most))
    few = counts[:3, :3]
    assert confusion(PETS, few)[0] is few


def test_the_gallery_has_the_most_confident_errors_and_the_most_doubtful_answers(evaluation):
    errors, doubtful = gallery(evaluation)
    wrong = [row for row in range(120) if evaluation.wrong[row]]
    assert [*errors] == sorted(wrong, key=lambda row: -evaluation.probabilities[row])[:12]
    assert [*doubtful] == sorted(range(120), key=lambda row: evaluation.scores[row])[:12]


def read(evaluation, folder, **options):
    path = write_report(evaluation, folder / "report.html", **options)
    return parse(path.read_text(encoding="utf-8"))


def test_the_page_is_one_file_that_runs_nothing_and_describes_its_figures(hostile_page):
    page = parse(hostile_page)
    assert {"certified", "groups", "errors", "ood", "readers", "images"} <= page.ids
    assert "details" in page.tags
    assert page.texts("p", "missing")[0].startswith("Warning: answers that are more likely wrong")
    assert "Certified: at most 30 % of the accepted predictions are wrong." in page.texts("li")
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert page.handlers == []
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert page.text.count("alert(1)") > 24
    assert "The file cannot be read." in page.text
    assert len([image for image in page.images if "jpeg" in image["src"]]) <= 24
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "nan" not in page.text


def test_the_histogram_of_scores_shows_the_threshold_of_the_measured_batch(monkeypatch, tmp_path):
    policy = Deferral(max_error=0.3, guarantee="average")
    policy.fit(predictions(300, seed=1), predictions(300, seed=2))
    evaluation, drawn = evaluate(predictions(), policy), Mock(wraps=histogram_figure)
    monkeypatch.setattr("misgiving.report.evaluation.histogram_figure", drawn)
    write_report(evaluation, tmp_path / "report.html")
    threshold = evaluation.decisions.threshold
    assert drawn.call_args.kwargs["limit"] == threshold != policy.certificate_.accept_threshold


def test_bounds_of_operating_points_are_rounded_up(evaluation, tmp_path):
    cells = read(evaluation, tmp_path).texts("td", "number")
    bound = evaluation.deferral.certificate_.operating_points[0].bound
    shown = f"{np.ceil(1000 * bound) / 10:g} %"
    assert shown in cells
    assert shown != percent(bound)


def test_figures_are_described_by_their_numbers(tmp_path):
    evaluation = evaluate(predictions())
    images = read(evaluation, tmp_path).images
    words = {image["alt"].split(".")[0]: image["alt"] for image in images}
    right, wrong = (np.median(evaluation.scores[evaluation.wrong == flag]) for flag in (0, 1))
    assert f"right {right:.3g}, wrong {wrong:.3g}." in words["Histogram of the acceptance score"]
    matrix = confusion_matrix(evaluation.judged.labels, evaluation.classes)
    row, column = np.unravel_index(np.argmax(matrix - np.diag(np.diag(matrix))), matrix.shape)
    said = f"{PETS[row]} predicted as {PETS[column]}: {matrix[row, column]}"
    assert f"Most frequent errors: {said}" in words["Confusion matrix"]
    (reliability,) = [text for text in words.values() if "Expected calibration error" in text]
    bins = re.findall(r"([\d.]+) % predicted, ([\d.]+) % right", reliability)
    error = np.mean([abs(float(p) - float(r)) for p, r in bins]) / 100  # of equal mass
    assert float(reliability.split()[-1][:-1]) == pytest.approx(error, abs=0.002)


def test_numbers_that_are_optimistic_are_said_to_be_before_all_others(tmp_path):
    given = predictions(set=["train"] * 120)
    page = read(evaluate(given, set="train"), tmp_path)
    assert page.text.index("optimistic") < page.text.index("Accuracy:")
    assert "article" not in page.tags  # without image files, a table
    assert "Answers with the lowest acceptance score" in page.text


def test_the_figure_of_acceptance_has_the_policy_and_its_target():
    curve = [
        CurvePoint(0.5, 0.5, Share(10, 100, 0.05, 0.2)),
        CurvePoint(0.1, 1.0, Share(30, 100, 0.2, 0.4)),
    ]
    axes = acceptance_figure(curve, score="msp", chosen=(0.6, 0.15), limit=0.2).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    np.testing.assert_allclose(lines["MSP"], [[50, 10], [100, 30]])
    assert lines["the policy"] == [[60, 15]]
    assert {height for _, height in lines["target"]} == {20}
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().bounds == pytest.approx((50, 5, 50, 35))


def test_the_findings_and_the_figure_of_a_team_have_its_numbers(deferral):
    given = predictions(240, set=["test", "tune"] * 120, reader_ann=["0", "1", "2", "0"] * 60)
    evaluation = evaluate(given, deferral, readers=True)
    (team,) = evaluation.readers.teams
    right = team.accuracy["policy"].events
    bound = three_digits(beta.ppf(0.95, 120 - right + 1, right), up=True)
    reader = np.mean(evaluation.judged.readers["ann"] == evaluation.judged.labels)
    assert texts(evaluation)["Readers"] == (
        f"with ann on the {percent(team.deferred)} that the policy does not accept, "
        f"{interval(right, 120)} are right, and with 95 % confidence at most {bound} are wrong "
        f"(the model alone: {percent(1 - evaluation.wrong.mean())} right; ann alone: "
        f"{percent(reader)})."
    )
    axes = team_figure(team).axes[0]
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    for way in ("deferral", "combination"):
        assert lines[way][8].tolist() == pytest.approx([20, 100 * team.curves[way][8].value])
    np.testing.assert_allclose(lines["the policy"], [[100 * team.deferred, 100 * right / 120]])
    assert {height for _, height in lines["reader alone"]} == {100 * reader}


def test_histograms_are_shares_of_each_set_over_the_same_bars():
    sets = {"right": np.arange(100.0), "$" + "x" * 50: np.array([0.0, 50.0])}
    axes = histogram_figure(sets, xlabel="x", limit=120.0, limit_label="limit").axes[0]
    first, second = (patch.get_data() for patch in axes.patches)
    assert first.values.sum() == pytest.approx(100)
    assert sorted(second.values)[-2:] == [50, 50]
    assert first.edges[-1] == 120
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["right (100)", r"\$" + "x" * 18 + "… (2)", "limit"]  # no formula


def test_the_page_and_the_certificate_begin_with_the_classes_that_a_policy_fails(tmp_path):
    labels = np.repeat([0, 1, 2], [200, 200, 40])
    random, predicted = np.random.default_rng(0), np.where(labels == 2, 1, labels)
    logits = random.normal(size=(440, 3)) + 6 * np.eye(3)[predicted]
    given = predictions(440, logits=logits, label=labels)
    policy = Deferral(max_error=0.2).fit(given)
    page = parse(write_report(evaluate(given, policy), tmp_path / "report.html").read_text())
    sentence = certificate_sentences(policy)[0].replace("`", "")
    (failing,) = policy.certificate_.failing_classes
    assert failing.limit.name == HOSTILE
    assert sentence.startswith(f"Warning: {failing.missed} of {failing.cases} {HOSTILE} cases are ")
    assert sentence in page.texts("p", "missing")
    assert sentence in page.texts("li")
