import pytest
from elements import parse
from fabricated import BLANK
from matplotlib.colors import same_color
from policy_rows import bins, interval, risk_points

from misgiving.report.figures.classes import new_classes_figure
from misgiving.report.figures.curves import SCORE_COLOURS, calibration_figure, risk_figure
from misgiving.report.findings.detectors import (
    chosen_sentence,
    error_detection_sentences,
    estimation_sentence,
)
from misgiving.report.inputs import read_inputs, select
from misgiving.report.page import draw_figures, render_page
from misgiving.report.views.detection import chosen_table, detector_tables
from misgiving.report.views.models import error_detection_table
from misgiving.results.schema import Result, RiskPoint


@pytest.fixture(scope="module")
def inputs(with_policies):
    return read_inputs(with_policies)


def beside_msp(metric, *bounds, detector="predicted_loss", model="proposed"):
    return interval(detector, metric, *bounds, model=model, baseline="msp", dataset="test")


@pytest.mark.parametrize(
    ("metric", "bounds", "words"),
    [
        ("aurc", (-0.03, -0.01), "predicted loss ranks errors better than its MSP: AURC"),
        ("aurc", (0.01, 0.03), "predicted loss ranks errors worse than its MSP: AURC +0.020"),
        ("aurc", (-0.01, 0.03), "No clear difference from its MSP: AURC"),
        ("aurc", (), "The difference from its MSP cannot be judged: AURC"),
        ("error_auroc", (0.01, 0.03), "better than its MSP: AUROC for errors +2.0 points"),
        ("error_auroc", (-0.03, -0.01), "worse than its MSP: AUROC for errors"),
    ],
)
def test_a_score_beats_msp_only_where_the_paired_interval_says_so(metric, bounds, words):
    assert words in error_detection_sentences([beside_msp(metric, *bounds)], measured="test")[0]


def test_every_model_is_counted_under_its_effect():
    rows = [beside_msp("aurc", 0.01, 0.03), beside_msp("aurc", -0.03, -0.01, model="mse")]
    said = error_detection_sentences(rows, measured="test")[0]
    assert said.endswith(
        "Over all models (bootstrap, unadjusted): AURC better than MSP's in 1 "
        "(mse), worse than MSP's in 1 (proposed)."
    )


def test_a_score_without_a_difference_cannot_be_judged():
    predicted, calibrated, combination, estimator = error_detection_sentences([], measured="test")
    assert "was not compared with MSP" in predicted
    assert "grouped split" in calibrated
    assert "grouped split" in combination
    assert "taps or features" in estimator


def test_differences_between_models_are_not_taken_for_those_from_msp():
    row = beside_msp("aurc", -0.03, -0.01)._replace(baseline="vanilla")
    said = error_detection_sentences([row], measured="test")[0]
    assert said.startswith("Predicted loss was not compared with MSP")


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0.01, 0.03), "ranks the true losses better than its MSP"),
        ((-0.03, -0.01), "ranks the true losses worse than its MSP"),
        ((-0.01, 0.03), "No clear difference from its MSP"),
    ],
)
def test_predicted_loss_estimates_better_than_msp_only_where_the_paired_interval_says_so(
    bounds, words
):
    rows = [beside_msp("spearman", *bounds)]
    assert words in estimation_sentence(rows, measured="test")


def test_without_a_paired_difference_the_estimates_are_not_compared():
    rows = [beside_msp("spearman", 0.01, 0.03)._replace(baseline="")]
    assert "has no difference from its MSP" in estimation_sentence(rows, measured="test")


def scores_of(table):
    """The scores of each model in a table."""
    return {
        body[0][0].text: [row[1 if row is body[0] else 0].text for row in body]
        for body in table.bodies
    }


def test_every_acceptance_score_of_a_model_has_a_row(inputs):
    scores = scores_of(error_detection_table(inputs))
    assert len(scores["vanilla"]) == 3
    assert all("combination" in found for found in scores.values())
    assert [model for model in scores if "predicted loss" in scores[model]] == [
        "mse", "detached", "proposed",
    ]  # fmt: skip


def test_a_difference_from_msp_is_in_its_column(inputs):
    table = error_detection_table(inputs)
    column = [cell.text for cell in table.heads[0]].index("AURC \N{MINUS SIGN} MSP's")
    minus = "\N{MINUS SIGN}"
    found = {(row[column - len(table.heads[0])].text, *row[column - len(table.heads[0])].small)
             for body in table.bodies for row in body}  # fmt: skip
    assert (f"{minus}0.020", f"({minus}0.030 to {minus}0.010)") in found


def test_a_run_shows_the_error_measures_that_it_has(finished):
    inputs = read_inputs(finished)
    heads = [cell.text for cell in error_detection_table(inputs).heads[0]]
    assert any(text.startswith("AURC") for text in heads)
    assert not any(text.startswith("AUGRC") for text in heads)
    said = " ".join(parse(render_page(inputs, BLANK)).texts("p", "missing"))
    assert "Missing in risk_coverage.csv" in said


def test_a_run_without_scores_says_so(inputs):
    rows = select(inputs.results, experiment="ood_detection")
    page = parse(render_page(inputs._replace(results=rows), BLANK))
    assert "Missing in results.csv: acceptance scores" in " ".join(page.texts("p", "missing"))


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


def test_every_panel_of_risks_shows_the_whole_of_the_worst_model():
    rows = [RiskPoint(model, "msp", 1.0, risk, None, None)
            for model, risk in (("vanilla", 0.05), ("proposed", 0.3))]  # fmt: skip
    for axes in risk_figure(rows).axes[:2]:
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] >= 30


def test_every_trial_has_its_dot_at_80_percent_accepted():
    rows = select(risk_points(), model="mse", detector="msp")
    where = ("mse", "validation", "msp", "risk_at_coverage/0.8")
    values = (0.11, 0.12, 0.13)
    trials = [Result("generalization", trial, *where, v) for trial, v in enumerate(values)]
    trials += [row._replace(metric="risk_at_coverage/0.5") for row in trials]
    (dots,) = [line for line in risk_figure(rows, trials).axes[0].lines if line.get_marker() == "o"]
    assert list(dots.get_xdata()) == [80, 80, 80]
    assert dots.get_ydata() == pytest.approx([11, 12, 13])


def test_intervals_of_the_scores_stand_side_by_side():
    axes = risk_figure(list(risk_points())).axes[1]
    across = [round(segment[0][0], 6) for group in axes.collections
              for segment in group.get_segments()]  # fmt: skip
    assert len(across) == len(set(across)) == 4 * 3


def test_a_curve_without_an_interval_is_drawn_without_a_band():
    rows = [RiskPoint("another", "another", share, 0.1, None, None) for share in (0.5, 1.0)]
    assert lines_of(risk_figure(rows).axes[0])["another"].get_ydata()[0] == pytest.approx(10)


def test_scores_that_one_model_lacks_are_in_the_legend():
    legend = risk_figure(list(risk_points())).legends[0]
    names = [text.get_text() for text in legend.texts]
    assert names == ["MSP", "entropy", "combination", "predicted loss"]


def test_a_model_without_an_estimator_has_no_expected_loss():
    axes = calibration_figure(list(bins())).axes
    words = [[text.get_text() for text in panel.texts] for panel in axes]
    assert words == [[], [], [], [], ["not measured"], [], [], []]


def test_marks_of_reliability_stand_at_percents_of_errors():
    marks = calibration_figure(list(bins())).axes[0].collections[0].get_offsets()
    assert marks[0].tolist() == pytest.approx([10, 25])


NEW_FIGURES = {"risk-coverage", "reliability"}


@pytest.fixture(scope="module")
def drawn(inputs):
    return draw_figures(inputs)


def test_figures_are_drawn_where_their_files_are(drawn, finished):
    assert drawn.keys() >= NEW_FIGURES
    assert not NEW_FIGURES & draw_figures(read_inputs(finished)).keys()


def test_a_whole_report_has_words_for_the_new_figures(inputs, drawn):
    new = {name: drawn[name] for name in NEW_FIGURES}
    page = parse(render_page(inputs, {**BLANK, **new}))
    assert any(words.startswith("Error among the accepted images") for words in page.labels)
    assert any(words.startswith("Predicted against observed") for words in page.labels)


def ood(detector, *bounds, name="boxes"):
    return interval(detector, "auroc", *bounds, experiment="ood_detection", dataset=name)


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((0.8, 0.9), "higher on 1 (boxes)"),
        ((0.5, 0.6), "lower on 1 (boxes)"),
        ((0.6, 0.8), "not clearly different on 1 (boxes)"),
        ((), "without an interval on 1 (boxes)"),
    ],
)
def test_the_best_on_tuning_differs_from_odin_only_where_intervals_are_disjoint(bounds, words):
    rows = [ood("best_on_tuning", *bounds), ood("odin", 0.65, 0.75)]
    assert f"compared with ODIN's, {words}" in chosen_sentence(rows, sets=["boxes"])


def test_the_best_on_tuning_is_not_judged_on_the_tuning_set():
    rows = [ood(name, 0.8, 0.9, name="histology") for name in ("best_on_tuning", "odin")]
    assert "cannot be judged" in chosen_sentence(rows, sets=["boxes"])


def test_the_choice_is_listed_trial_by_trial_and_measured_elsewhere(inputs):
    page = parse(render_page(inputs, BLANK))
    said = " ".join(" ".join(page.texts("caption")).split())
    assert "Highest AUROC on histology, trial by trial: vanilla kNN / ViM / ViM;" in said
    names = [body[0][0].text for body in chosen_table(inputs).bodies]
    assert names.count("boxes") == 1
    assert "histology" not in names


def test_a_run_that_chose_no_detector_says_so(finished):
    page = parse(render_page(read_inputs(finished), BLANK))
    assert "Missing in results.csv: the best detector" in " ".join(page.texts("p", "missing"))


def test_a_detector_that_was_tuned_or_chosen_on_a_set_is_marked_there_alone(inputs):
    cells = [
        cell.text
        for table in detector_tables(inputs).values()
        for body in table.bodies
        for row in body
        for cell in row
    ]
    assert cells.count("best on tuning (chosen here)") == 4
    assert cells.count("best on tuning") == 8


def test_figure_5_leaves_out_detectors_that_it_has_no_room_for(results):
    extra = [row._replace(detector="vim") for row in select(results, detector="msp")]
    axes = new_classes_figure([*results, *extra]).axes[1]
    assert "ViM" not in [label.get_text() for label in axes.get_xticklabels()]
