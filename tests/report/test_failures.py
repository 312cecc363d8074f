import pytest
from matplotlib.colors import same_color
from relied import RiskPoint, bins, interval, risk_points

from misgiving.report.figures import (
    SCORE_COLOURS,
    new_classes_figure,
    reliability_figure,
    risk_figure,
)
from misgiving.report.inputs import read_material
from misgiving.report.page import draw_figures, write_report
from misgiving.report.page.detectors import chosen, every_detector
from misgiving.report.page.estimation import estimation_sentence
from misgiving.report.page.failures import failures
from misgiving.report.tables import chosen_sentence, failure_sentences, select


@pytest.fixture(scope="module")
def material(relied):
    return read_material(relied)


def beside_msp(metric, *bounds, detector="predicted_loss", model="proposed"):
    return interval(detector, metric, *bounds, model=model, baseline="msp", dataset="test")


@pytest.mark.parametrize(
    ("metric", "bounds", "words"),
    [
        ("aurc", (-0.03, -0.01), "predicted loss tells errors clearly better than its MSP: AURC"),
        ("aurc", (0.01, 0.03), "predicted loss tells errors worse than its MSP: AURC +0.020"),
        ("aurc", (-0.01, 0.03), "predicted loss cannot be told apart from its MSP: AURC"),
        ("aurc", (), "predicted loss cannot be judged against its MSP: AURC"),
        ("error_auroc", (0.01, 0.03), "clearly better than its MSP: AUROC for errors +2.0 points"),
        ("error_auroc", (-0.03, -0.01), "worse than its MSP: AUROC for errors"),
    ],
)
def test_a_score_beats_msp_only_where_the_paired_interval_says_so(metric, bounds, words):
    assert words in failure_sentences([beside_msp(metric, *bounds)], part="test")[0]


def test_both_measures_stand_under_one_verdict_where_they_agree():
    rows = [beside_msp("aurc", 0.01, 0.03), beside_msp("error_auroc", -0.03, -0.01)]
    said = failure_sentences(rows, part="test")[0]
    assert said.count("tells errors") == 1


def test_every_model_is_counted_under_its_verdict():
    rows = [beside_msp("aurc", 0.01, 0.03), beside_msp("aurc", -0.03, -0.01, model="mse")]
    said = failure_sentences(rows, part="test")[0]
    assert said.endswith(
        "Over all models: AURC better than MSP's in 1 (mse), worse in 1 (proposed)."
    )


def test_a_score_without_a_difference_cannot_be_judged():
    predicted, calibrated, combination = failure_sentences([], part="test")
    assert predicted.startswith("Whether predicted loss beats MSP cannot be judged")
    assert "kept apart to learn it" in calibrated
    assert "kept apart to learn it" in combination


def test_differences_between_models_are_not_taken_for_those_from_msp():
    row = beside_msp("aurc", -0.03, -0.01)._replace(baseline="vanilla")
    assert "cannot be judged" in failure_sentences([row], part="test")[0]


def test_what_is_paired_with_msp_is_not_told_again_by_unpaired_intervals():
    where = {"dataset": "validation"}
    rows = [interval(name, "error_auroc", 0.7, 0.8, **where) for name in ("predicted_loss", "msp")]
    paired = interval("predicted_loss", "error_auroc", 0.0, 0.1, baseline="msp", **where)
    assert "AUROC for errors" in estimation_sentence(rows)
    assert "AUROC for errors" not in estimation_sentence([*rows, paired])


def test_every_failure_score_of_a_model_has_a_row(material):
    html = failures(material, {})
    vanilla, others = html.partition('rowspan="3">vanilla')[::2]
    assert others.count("<td>combination</td>") == 4
    assert vanilla.count("<td>predicted loss</td>") == 0
    assert others.count("<td>predicted loss</td>") == 3


def test_a_difference_from_msp_stands_in_its_column(material):
    html = failures(material, {})
    assert "AURC \N{MINUS SIGN} MSP&#x27;s" in html
    assert "\N{MINUS SIGN}0.020<small>(\N{MINUS SIGN}0.030 to \N{MINUS SIGN}0.010)</small>" in html


def test_an_older_run_shows_the_failure_measures_that_it_has(finished):
    html = failures(read_material(finished), {})
    assert "AURC" in html
    assert "AUGRC" not in html
    assert "Missing: risk_coverage.csv" in html


def test_a_run_without_scores_says_so(material):
    rows = select(material.results, experiment="ood_detection")
    assert "Missing in results.csv: scores" in failures(material._replace(results=rows), {})


def lines_of(axes):
    return {line.get_label(): line for line in axes.lines}


def test_msp_has_the_same_colour_in_every_panel():
    panels = [axes for axes in risk_figure(list(risk_points())).axes if axes.get_visible()]
    assert len(panels) == 4
    for axes in panels:
        assert same_color(lines_of(axes)["MSP"].get_color(), SCORE_COLOURS["msp"])


def test_risks_are_drawn_in_percent_in_the_order_of_coverage():
    rows = select(risk_points(), model="mse", detector="msp")[::-1]
    line = lines_of(risk_figure(rows).axes[0])["MSP"]
    assert line.get_xdata()[0] == pytest.approx(5)
    assert line.get_ydata()[-1] == pytest.approx(20)


def test_a_curve_without_an_interval_is_drawn_without_a_band():
    rows = [RiskPoint("another", "another", share, 0.1, None, None) for share in (0.5, 1.0)]
    assert lines_of(risk_figure(rows).axes[0])["another"].get_ydata()[0] == pytest.approx(10)


def test_scores_that_one_model_lacks_are_in_the_legend():
    legend = risk_figure(list(risk_points())).legends[0]
    names = [text.get_text() for text in legend.texts]
    assert names == ["MSP", "entropy", "combination", "predicted loss"]


def test_a_model_without_an_estimator_has_no_expected_loss():
    axes = reliability_figure(list(bins())).axes
    words = [[text.get_text() for text in panel.texts] for panel in axes]
    assert words == [[], [], [], [], ["not measured"], [], [], []]


def test_marks_of_reliability_stand_at_percents_of_errors():
    marks = reliability_figure(list(bins())).axes[0].collections[0].get_offsets()
    assert marks[0].tolist() == pytest.approx([10, 25])


def test_figures_are_drawn_where_their_files_are(material, finished):
    names = {"risk-coverage", "reliability"}
    assert names <= draw_figures(material).keys()
    assert not names & draw_figures(read_material(finished)).keys()


def test_a_whole_report_has_words_for_the_new_figures(relied):
    html = write_report(relied).read_text(encoding="utf-8")
    assert 'alt="Error among the accepted images' in html
    assert 'alt="Predicted against observed. Mean error probability' in html


def ood(detector, *bounds, name="boxes"):
    return interval(detector, "auroc", *bounds, experiment="ood_detection", dataset=name)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0.8, 0.9), "clearly higher on 1 (boxes)"),
        ((0.5, 0.6), "clearly lower on 1 (boxes)"),
        ((0.6, 0.8), "not told apart on 1 (boxes)"),
        ((), "without an interval on 1 (boxes)"),
    ],
)
def test_the_best_on_tuning_is_told_from_odin_by_disjoint_intervals(bounds, words):
    rows = [ood("best_on_tuning", *bounds), ood("odin", 0.65, 0.75)]
    assert f"compared with ODIN's, {words}" in chosen_sentence(rows, sets=["boxes"])


def test_the_best_on_tuning_is_not_judged_on_the_tuning_set():
    rows = [ood(name, 0.8, 0.9, name="histology") for name in ("best_on_tuning", "odin")]
    assert "cannot be judged" in chosen_sentence(rows, sets=["boxes"])


def test_what_was_chosen_is_told_trial_by_trial_and_measured_elsewhere(material):
    html = chosen(material)
    assert "Highest AUROC on histology, trial by trial: vanilla kNN / ViM / ViM;" in html
    assert html.count(">boxes<") == 1
    assert ">histology<" not in html


def test_a_run_that_chose_no_detector_says_so(finished):
    assert "Missing in results.csv: the best detector" in chosen(read_material(finished))


def test_what_was_tuned_or_chosen_on_a_set_is_marked_there_alone(material):
    html = every_detector(material)
    assert html.count("best on tuning (chosen here)") == 4
    assert html.count("<td>best on tuning</td>") == 8


def test_figure_5_leaves_out_detectors_that_it_has_no_room_for(results):
    extra = [row._replace(detector="vim") for row in select(results, detector="msp")]
    axes = new_classes_figure([*results, *extra]).axes[1]
    assert "ViM" not in [label.get_text() for label in axes.get_xticklabels()]
