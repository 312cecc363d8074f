"""The report of an evaluation: every number against an oracle, and the page."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import beta, binomtest
from sklearn.metrics import confusion_matrix, roc_auc_score

from misgiving.metrics.subgroups import audit
from misgiving.report.evaluation import Answers, Detection, Evaluated, NamedClasses, ScoredImages
from misgiving.report.evaluation.findings import findings_of
from misgiving.report.evaluation.page import confusion, evaluation_page, gallery, shortened
from misgiving.report.evaluation.shares import (
    percent,
    reliability_of,
    risk_over_coverage,
    separation,
    shares,
)
from misgiving.report.figures.classes import matrix_figure
from misgiving.report.figures.curves import acceptance_figure
from misgiving.report.figures.histograms import histogram_figure

HOSTILE = "<script>alert(1)</script> & $x$"
CLASSES = ("cat", "dog", HOSTILE)


def made(count=120, seed=0, names=CLASSES, **changed):
    """Answers whose score says something of their correctness."""
    random = np.random.default_rng(seed)
    true, named = random.integers(len(names), size=(2, count))
    named = np.where(random.random(count) < 0.6, true, named)
    wrong = true != named
    fields = {
        "wrong": wrong,
        "scores": random.normal(size=count).round(1) - wrong,
        "score": "msp",
        "probabilities": random.uniform(0.3, 1, size=count).round(2),
        "groups": np.arange(count),
        "ids": tuple(f"image {row} {HOSTILE}" for row in range(count)),
        "classes": NamedClasses(names, true, named),
    }
    return Answers(**fields | changed)


def evaluated(answers, sites=None, **changed):
    everything = np.ones(len(answers), dtype=bool)
    names = [answers.classes.names[label] for label in answers.classes.true]
    columns = {"class": names, **({"site": sites} if sites else {})}
    errors = audit(columns, everything, ~everything, answers.wrong)
    fields = {"title": HOSTILE, "answers": answers, "errors": errors}
    return Evaluated(**fields | changed)


def texts(of):
    return {finding.topic: finding.text for finding in findings_of(of).sentences}


def exact(events, cases):
    found = binomtest(events, cases).proportion_ci(0.95, method="exact")
    return pytest.approx((found.low, found.high), abs=1e-9)


def test_shares_of_single_images_have_the_exact_interval():
    answers = made()
    accepted = answers.scores > 0
    found = shares([(answers.wrong, accepted), (accepted, ~accepted)], answers.groups)
    events = sum(wrong and taken for wrong, taken in zip(answers.wrong, accepted, strict=True))
    assert found[0][:2] == (events, accepted.sum())
    assert found[0][2:] == exact(events, int(accepted.sum()))
    assert found[1][0] == 0
    assert found[1][2:] == exact(0, int((~accepted).sum()))


def grouped(sizes, *, rate, together, seed=1):
    """Groups by name, and wrong images that in some groups are wrong all together or not at all."""
    random = np.random.default_rng(seed)
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    wrong = random.random(len(groups)) < rate
    of_groups = np.repeat(random.random(len(sizes)) < rate, sizes)
    tied = np.repeat(random.random(len(sizes)) < together, sizes)
    return np.where(tied, of_groups, wrong), groups


@pytest.mark.parametrize("one_of_each", [False, True])
def test_shares_of_groups_have_the_interval_of_korn_and_graubard(one_of_each):
    sizes = np.random.default_rng(1).integers(1, 7, size=50)
    wrong, groups = grouped(sizes, rate=0.4, together=0.9)
    (found,) = shares([(wrong, np.ones(len(wrong), bool))], groups, one_of_each=one_of_each)
    events, cases = dict.fromkeys(groups, 0.0), dict.fromkeys(groups, 0.0)
    for event, group in zip(wrong, groups, strict=True):
        weight = 1 / groups.count(group) if one_of_each else 1
        events[group] += weight * event
        cases[group] += weight
    total = sum(cases.values())
    share = sum(events.values()) / total
    variance = sum((events[g] - share * cases[g]) ** 2 for g in events) / total**2
    effect = variance / (share * (1 - share) / total)
    n = min(total / effect, len(events))
    assert (n < 49) != one_of_each  # for one of each the limit of 50 groups binds
    x = share * n
    expected = beta.ppf(0.025, x, n - x + 1), beta.ppf(0.975, x + 1, n - x)
    assert found.value == pytest.approx(share)
    assert found[2:] == pytest.approx(expected, abs=1e-9)


def test_groups_of_one_size_that_are_wrong_together_have_the_exact_interval_of_groups():
    wrong, groups = grouped([4] * 30, rate=0.2, together=1.0)
    (found,) = shares([(wrong, np.ones(120, bool))], groups)
    assert found[2:] == exact(int(wrong[::4].sum()), 30)


def test_one_pair_of_images_hardly_changes_the_interval_of_a_rare_error():
    wrong, groups = np.arange(101) == 5, np.minimum(np.arange(101), 99)
    (found,) = shares([(wrong, np.ones(101, bool))], groups)
    single = binomtest(1, 101).proportion_ci(0.95, method="exact")
    assert found[2:] == pytest.approx((single.low, single.high), abs=1e-3)


@pytest.mark.parametrize(
    ("sizes", "rate", "together"),
    [([2] + [1] * 99, 0.05, 1.0), ([2] * 60, 0.05, 0.5), ([1, 2, 3] * 40, 0.03, 0.7)],
)
def test_the_true_share_lies_beyond_each_end_as_rarely_as_stated(sizes, rate, together):
    columns = [grouped(sizes, rate=rate, together=together, seed=seed) for seed in range(1000)]
    everything = np.ones(sum(sizes), dtype=bool)
    found = shares([(wrong, everything) for wrong, _ in columns], columns[0][1])
    assert np.mean([share.upper < rate for share in found]) <= 0.03
    assert np.mean([share.lower > rate for share in found]) <= 0.03
    assert np.mean([share.upper - share.lower for share in found]) < 4.5 * np.sqrt(rate / 60)


def test_a_wrong_image_never_lowers_the_upper_limit():
    groups, everything = np.arange(600) // 10, np.ones(600, dtype=bool)
    found = shares([(np.arange(600) < wrong, everything) for wrong in range(40)], groups)
    assert all(a.upper < b.upper for a, b in pairwise(found))


def test_no_event_in_any_group_counts_groups_and_not_images():
    groups = [str(row // 4) for row in range(40)]
    nothing, everything = np.zeros(40, dtype=bool), np.ones(40, dtype=bool)
    found = shares([(nothing, everything), (everything, everything)], groups)
    assert found[0][2:] == exact(0, 10)
    assert found[1][2:] == exact(10, 10)
    (one,) = shares([(everything, everything)], ["a"] * 40)
    assert "no interval: one group" in str(one)
    (none,) = shares([(everything, nothing)], groups)
    assert str(none) == "not defined"


def test_each_point_of_the_curve_counts_what_its_threshold_accepts():
    answers = made(scores=np.r_[np.nan, made().scores[1:]])
    points = risk_over_coverage(answers)
    for point in points:
        taken = [
            wrong
            for wrong, score in zip(answers.wrong, answers.scores, strict=True)
            if (score >= point.threshold) or point.threshold == -np.inf
        ]
        assert point.coverage == pytest.approx(len(taken) / 120)
        assert point.error[:2] == (sum(taken), len(taken))
        assert point.error[2:] == exact(sum(taken), len(taken))
    assert points[-1].coverage == 1
    assert len(points) > 15
    assert all(a.coverage < b.coverage for a, b in pairwise(points))


def test_each_bin_of_reliability_counts_its_own_images():
    answers = made(probabilities=np.r_[np.nan, made().probabilities[1:]])
    found, observed = reliability_of(answers)
    rows = sorted(
        zip(answers.probabilities[1:], ~answers.wrong[1:], strict=True), key=lambda row: row[0]
    )
    assert sum(share.cases for share in observed) == 119
    for predicted, share in zip(found.predicted, observed, strict=True):
        of_bin, rows = rows[: int(share.cases)], rows[int(share.cases) :]
        assert predicted == pytest.approx(sum(row[0] for row in of_bin) / len(of_bin))
        assert share.events == sum(row[1] for row in of_bin)
        assert share[2:] == exact(int(share.events), int(share.cases))


def test_the_separation_of_ood_images_is_that_of_scikit_learn():
    random = np.random.default_rng(2)
    inside, outside = random.normal(1, 1, size=200), random.normal(0, 1, size=80)
    names = [str(row) for row in range(200)]
    sets = ScoredImages(inside, tuple(names)), ScoredImages(outside, tuple(names[:80]))
    found = separation(Detection("knn", sets[0], {"scans": sets[1]}), "scans", seed=0)
    labels = np.repeat([1, 0], [200, 80])
    assert found.auroc == pytest.approx(roc_auc_score(labels, np.r_[inside, outside]))
    drawn = [
        roc_auc_score(labels, np.r_[random.choice(inside, 200), random.choice(outside, 80)])
        for _ in range(500)
    ]
    assert found[1:3] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)
    accepted = sorted(inside)[10]  # 190 of 200 are at least this
    assert found.fpr_at_tpr95 == pytest.approx((outside >= accepted).mean())


@pytest.mark.parametrize(
    ("outside", "groups"),
    [
        ([0.5], "a"),
        ([0.5, 0.1], "aa"),  # one group
        ([-9.0, -8.0, -7.0], "abc"),  # separated completely: nothing varies
    ],
)
def test_without_variation_or_with_one_group_a_separation_has_no_interval(outside, groups):
    inside = ScoredImages(np.linspace(0.2, 2, 20), tuple(map(str, range(20))))
    decided = np.array(["ood"] + ["accept"] * (len(outside) - 1))
    outliers = ScoredImages(np.array(outside), tuple(groups), decided)
    detection = Detection("knn", inside, {"scans": outliers})
    found = separation(detection, "scans", seed=0)
    assert found.auroc == pytest.approx(
        np.mean([(a > b) + 0.5 * (a == b) for a in inside.scores for b in outside])
    )
    assert np.isnan(found[1:3]).all()
    of = evaluated(made(outcomes=np.array(["accept"] * 120)), detection=detection)
    assert f"AUROC {found.auroc:.3f} (no interval can be given)" in texts(of)["OOD"]
    page = page_of(of).text
    assert f"{found.auroc:.3f}no interval" in page.replace("\n", "")
    assert "nan" not in page


def test_confusions_of_many_classes_keep_those_with_most_errors():
    random = np.random.default_rng(3)
    true = random.integers(100, size=4000)
    named = np.where(random.random(4000) < true / 100, random.integers(100, size=4000), true)
    classes = NamedClasses(tuple(f"c{k}" for k in range(100)), true, named)
    counts, names = confusion(classes)
    assert len(names) == 16
    assert names[-1] == "85 others"
    kept = [int(name[1:]) for name in names[:-1]]
    expected = confusion_matrix(
        np.where(np.isin(true, kept), true, 100),
        np.where(np.isin(named, kept), named, 100),
        labels=[*kept, 100],
    )
    np.testing.assert_array_equal(counts, expected)
    errors = [((true == k) ^ (named == k)).sum() for k in range(100)]
    assert min(errors[k] for k in kept) >= max(errors[k] for k in set(range(100)) - set(kept))
    few = made().classes
    np.testing.assert_array_equal(confusion(few)[0], confusion_matrix(few.true, few.named))


def test_the_gallery_has_the_most_confident_errors_and_the_most_doubtful_answers():
    answers = made(scores=np.random.default_rng(4).permutation(120).astype(float))
    errors, doubtful = gallery(answers)
    wrong = [row for row in range(120) if answers.wrong[row]]
    expected = sorted(wrong, key=lambda row: -answers.probabilities[row])[:12]
    assert [card.name for card in errors] == [answers.ids[row] for row in expected]
    assert all(card.named != card.true for card in errors)
    expected = sorted(range(120), key=lambda row: answers.scores[row])[:12]
    assert [card.name for card in doubtful] == [answers.ids[row] for row in expected]


def test_one_image_is_not_several():
    true, named = np.array([0, 0, 0]), np.array([0, 1, 0])
    groups, classes = np.zeros(3, dtype=int), NamedClasses(CLASSES, true, named)
    wrong, ids = true != named, ("a", "b", "c")
    values = np.array([0.9, 0.8, 0.7])
    fields = {"wrong": wrong, "groups": groups, "ids": ids, "scores": values, "classes": classes}
    several = made(**fields, probabilities=values)
    assert (
        " of 3 images (1 patient) are named"
        in texts(evaluated(several, unit="patient"))["Accuracy"]
    )
    first = {name: of[:1] for name, of in fields.items()} | {
        "classes": NamedClasses(CLASSES, true[:1], named[:1])
    }
    found = texts(evaluated(made(**first, probabilities=values[:1])))["Accuracy"]
    assert found.endswith(" of 1 image is named correctly.")


def test_the_sentences_without_a_policy():
    answers = made()
    found = texts(evaluated(answers))
    right = 120 - answers.wrong.sum()
    low, high = binomtest(int(right), 120).proportion_ci(0.95, method="exact")
    assert found["Accuracy"] == (
        f"{right / 1.2:.1f} % (95 % interval {100 * low:.1f} % to {100 * high:.1f} %) of 120 "
        "images are named correctly."
    )
    assert found["Certified"] == "nothing, because there is no policy."
    assert found["OOD"] == "not measured: no out-of-distribution images were given."
    best = 0
    for threshold in answers.scores:
        taken = answers.scores >= threshold
        if answers.wrong[taken].mean() <= 0.2:
            best = max(best, taken.sum())
    wrong = answers.wrong[np.argsort(-answers.scores, kind="stable")[:best]].sum()
    assert 0 < best < 120
    assert f"{best / 1.2:.1f} % with {100 * wrong / best:.1f} % (95 %" in found["Acceptance"]


def test_the_sentences_with_decisions():
    outcomes = np.array(["accept"] * 60 + ["defer"] * 40 + ["ood"] * 20)
    answers = made(outcomes=outcomes, reasons=["because"] * 120)
    far = ScoredImages(
        np.linspace(-9, -5, 10),
        tuple(map(str, range(10))),
        np.array(["ood"] * 7 + ["defer"] * 2 + ["accept"]),
    )
    inside = ScoredImages(answers.scores, answers.ids)
    found = texts(evaluated(answers, detection=Detection("knn", inside, {"scans": far})))
    wrong = answers.wrong[:60].sum()
    assert "the policy accepts 50.0 % (95 % interval" in found["Acceptance"]
    assert f"of these, {wrong / 0.6:.1f} % (95 % interval" in found["Acceptance"]
    assert "It defers 33.3 %" in found["Acceptance"]
    low, high = binomtest(7, 10).proportion_ci(0.95, method="exact")
    assert found["OOD"] == (
        f"scans (10 images): 70.0 % (95 % interval {100 * low:.1f} % to {100 * high:.1f} %) called "
        "out-of-distribution, 10.0 % accepted; AUROC 1.000 (no interval can be given). "
        "The score is kNN."
    )


def test_errors_are_also_those_of_one_image_of_each_lesion():
    outcomes = np.array(["accept"] * 60 + ["defer"] * 60)
    wrong, groups = np.arange(120) % 3 == 0, np.minimum(np.arange(120) // 2, 20)
    found = texts(evaluated(made(outcomes=outcomes, wrong=wrong, groups=groups), unit="lesion"))
    # of 20 lesions with two images one is accepted in any case, and of the last 20 of 80 images
    accepted = 20 + 20 / 80
    share = (wrong[:40].sum() / 2 + wrong[40:60].sum() / 80) / accepted
    assert f"of these, {wrong[:60].mean() * 100:.1f} % (95 %" in found["Acceptance"]
    expected = f"of one image of each lesion, as a policy certifies, {share * 100:.1f} % (95 %"
    assert expected in found["Acceptance"]


def test_nothing_accepted_and_nothing_wrong():
    deferred = made(outcomes=np.array(["defer"] * 120))
    assert (
        "accepts none of the 120 images. It defers 100 %"
        in texts(evaluated(deferred))["Acceptance"]
    )
    true = np.arange(120) % 3
    perfect = made(wrong=np.zeros(120, dtype=bool), classes=NamedClasses(CLASSES, true, true))
    found = texts(evaluated(perfect))
    assert found["Accuracy"].startswith("100 % (95 % interval 97.0 % to 100 %)")
    assert found["Acceptance"] == "no answer is wrong, so any share can be accepted."
    assert gallery(perfect)[0] == []
    assert "No answer is wrong." in page_of(evaluated(perfect)).text


def test_groups_that_are_worse_come_first_and_are_named():
    wrong = np.array([False] * 100 + [True] * 15 + [False] * 5)
    sites = ["north"] * 100 + ["south"] * 20
    of = evaluated(made(wrong=wrong), sites)
    first, *others = findings_of(of).harms
    assert (first.name, first.worse) == ("site south", ["wrong"])
    assert not any(one.worse for one in others if one.name != "site south")
    bounds = [one.errors.error_lower for one in others if not one.worse]
    assert bounds == sorted(bounds, reverse=True)
    low, high = binomtest(15, 20).proportion_ci(0.95, method="exact")
    assert texts(of)["Groups"] == (
        "significantly worse than the others: site south: wrong 75.0 % (95 % interval "
        f"{100 * low:.1f} % to {100 * high:.1f} %) of 20 images."
    )


@pytest.mark.parametrize(
    ("unit", "noun"),
    [
        ("patient", "patients"),
        ("group", "groups"),
        ("patient (lesion where no patient is named)", "groups"),
        ("image", "groups"),  # near copies count once
    ],
)
def test_subgroups_of_grouped_images_name_what_they_count(unit, noun):
    answers = made(groups=np.arange(120) // 2)
    single = made(wrong=np.arange(60) < 20, groups=np.arange(60), count=60)
    drawn = evaluated(single, ["north"] * 40 + ["south"] * 20).errors
    sentences = texts(Evaluated(title="t", answers=answers, errors=drawn, unit=unit))
    assert f"of 120 images (60 {noun}) are named" in sentences["Accuracy"]
    assert sentences["Groups"].endswith(f"of 40 {noun}, one image of each.")


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.links, self.titles, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        found = dict(attributes)
        if tag == "img":
            self.images.append(found)
        self.links += [value for key, value in attributes if key in ("href", "src")]
        self.titles += [key for key, _ in attributes if key == "title" or key.startswith("on")]

    def handle_data(self, data):
        self.text += data


def page_of(of):
    return Page(evaluation_page(of, findings_of(of)))


def test_the_page_is_one_file_that_runs_nothing_and_describes_its_figures():
    picture = np.full((30, 400, 3), 90, np.uint8)
    answers = made(picture=lambda row: picture if row % 2 else None)
    inside = ScoredImages(answers.scores, answers.ids)
    detection = Detection("knn", inside, {HOSTILE: inside})
    page = page_of(
        evaluated(answers, [HOSTILE] * 120, warnings=["optimistic"], detection=detection)
    )
    assert "script" not in page.tags
    assert all(link.startswith(("#", "data:image/")) for link in page.links)
    assert page.titles == []
    assert all(len(image["alt"]) > 20 for image in page.images)
    assert page.text.count("alert(1)") > 24
    assert "The file cannot be read." in page.text
    assert page.text.index("optimistic") < page.text.index("Accuracy:")
    assert len([image for image in page.images if "jpeg" in image["src"]]) <= 24
    ids = {link for link in page.links if link.startswith("#")}
    raw = evaluation_page(evaluated(answers), findings_of(evaluated(answers)))
    assert {f"#{found}" for found in re.findall(r'section id="(\w+)"', raw)} | {"#ood"} >= ids


def test_without_image_files_the_doubtful_answers_are_a_table():
    page = page_of(evaluated(made()))
    assert "article" not in page.tags
    assert "Answers with the lowest acceptance score" in page.text


def test_many_classes_and_a_class_that_is_missing_fit_on_the_page():
    classes = tuple(f"class {number}" for number in range(300))
    true = np.arange(3000) % 299
    answers = made(
        3000, classes=NamedClasses(classes, true, true), wrong=np.zeros(3000, dtype=bool)
    )
    page = page_of(evaluated(answers))
    assert "The 285 classes with the fewest errors are one row and column." in page.text
    assert "74 more with fewer errors are not shown." in page.text


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.9996, "above 99.9 %"), (0.0004, "below 0.1 %")],
)
def test_only_none_and_all_are_rounded_to_none_and_all(share, words):
    assert percent(share) == words


def test_a_name_in_a_figure_is_short_and_no_formula():
    assert shortened("x" * 50) == "x" * 19 + "…"
    assert shortened("$a$") == r"\$a\$"


def test_the_figure_of_acceptance_has_the_policy_and_its_target():
    points = np.array([(0.5, 0.1, 0.05, 0.2), (1.0, 0.3, 0.2, 0.4)])
    axes = acceptance_figure(points, score="msp", chosen=(0.6, 0.15), limit=0.2).axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["MSP"] == [[50, 10], [100, 30]]
    assert lines["the policy"] == [[60, 15]]
    assert {height for _, height in lines["target"]} == {20}
    (band,) = axes.collections
    assert band.get_paths()[0].get_extents().bounds == pytest.approx((50, 5, 50, 35))


def test_histograms_are_shares_of_each_set_over_the_same_bars():
    sets = {"right": np.r_[np.arange(100.0), np.nan], "wrong": np.array([0.0, 50.0])}
    axes = histogram_figure(sets, xlabel="x", limit=120.0, limit_label="limit").axes[0]
    first, second = (patch.get_data() for patch in axes.patches)
    assert first.values.sum() == pytest.approx(100)
    assert sorted(second.values)[-2:] == [50, 50]
    assert first.edges[-1] == 120
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "right (100)", "wrong (2)", "limit",
    ]  # fmt: skip
    assert histogram_figure({"none": np.array([np.nan])}, xlabel="x").axes[0].texts
    assert histogram_figure({"one": np.array([2.0])}, xlabel="x").axes[0].patches


def test_the_matrix_shows_each_count():
    axes = matrix_figure(np.array([[3, 1], [0, 5]]), ["a", "b"]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "5"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (4)", "b (5)"]
