import shutil

import pytest
from matplotlib.figure import Figure

from misgiving.report.inputs import read_material
from misgiving.report.markup import ABSENT
from misgiving.report.page import draw_figures, render_page
from misgiving.report.page.differences import differences
from misgiving.report.page.paper_comparison import beside
from misgiving.report.published import SETS, SETTINGS, table_1
from misgiving.report.tables import Result, ResultInterval

OURS = {  # a run in which all that is recorded is the paper's
    "data": "isic2019:somewhere",
    "classes": list(SETTINGS.classes),
    "in_distribution": list(SETTINGS.in_distribution),
    "unseen": list(SETTINGS.unseen),
    "backbone": "vgg16.tv_in1k",
    "pretrained": "ImageNet weights of timm",
    "image_size": 224,
    "epochs": 50,
    "batch_size": 64,
    "learning_rate": 1e-4,
    "validation_share": 0.1,
    "split": "paper",
    "measured_set": "validation",
    "trials": 3,
    "tuning_set": "nct",
    "training": {
        "optimiser": "Adam, beta1 0.9, weight decay 0.0005",
        "learning rate": "0.0001, times 0.5 every 10 epochs",
        "dropout": "0.4",
        "auxiliary weight (Eq. 2)": "0.5",
        "crop": "0.85",
        "colour constancy": "shades of gray",
    },
}
COUNTS = dict(
    zip(SETTINGS.classes, (4522, 12875, 3323, 867, 2624, 239, 253, 628), strict=True)
)  # of the ISIC 2019 training data


@pytest.fixture(scope="module")
def material(dermoscopy):
    return read_material(dermoscopy)


@pytest.fixture(scope="module")
def like_the_paper(material):
    results = [Result("ood_detection", 0, "vanilla", name, "odin", "auroc", 0.5) for name in SETS]
    datasets = {name: {"images": paper.images} for name, paper in SETS.items()}
    counts = {name: {"train": count - 7, "validation": 7} for name, count in COUNTS.items()}
    return material._replace(
        results=results, datasets=datasets, settings={**OURS, "class_counts": counts}
    )


def page(folder):
    blank = dict.fromkeys(
        ["figure-2", "figure-3", "figure-4", "figure-5", "confusions", "learning-rates"],
        Figure(figsize=(1, 1)),
    )
    return render_page(read_material(folder), blank)


def changed(material, **values):
    training = {**material.settings["training"], **values.pop("training", {})}
    return material._replace(settings={**material.settings, "training": training, **values})


def test_a_run_like_the_papers_differs_in_nothing(like_the_paper):
    assert differences(like_the_paper) == []
    assert "Nothing that settings.json records differs." in beside(like_the_paper)


def test_what_is_not_recorded_is_not_called_different(like_the_paper):
    assert differences(like_the_paper._replace(settings={})) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": "ham10000:here"}, "Data: ham10000:here instead of ISIC 2019."),
        ({"backbone": "resnet18"}, "Network: resnet18 instead of VGG-16."),
        ({"pretrained": "no"}, "Initial weights: random instead of those of ImageNet."),
        ({"image_size": 112}, "Image size: 112 px instead of 224 px."),
        ({"epochs": 20}, "Epochs: 20 instead of 50."),
        ({"batch_size": 32}, "Batch size: 32 instead of 64."),
        ({"learning_rate": 3e-4}, "Learning rate: 0.0003 instead of 0.0001."),
        ({"validation_share": 0.2}, "Share of images held out: 0.2 instead of 0.1."),
        ({"trials": 1}, "Trials: 1 instead of 3."),
        ({"training": {"crop": "1"}}, "Crop: 1 of the width instead of 0.85 of the width."),
        ({"training": {"dropout": "0.5"}}, "Dropout: 0.5 instead of 0.4."),
        (
            {"training": {"learning rate": "0.0001, times 0.5 every 4 epochs"}},
            "Epochs between decays: 4 instead of 10.",
        ),
        (
            {"split": "grouped"},
            "Split: by lesion, so that none is in two parts, instead of by image; about 70 % of "
            "the images are trained on instead of 90 %.",
        ),
        (
            {"measured_set": "test"},
            "Numbers are of a test part; the paper's are of its validation part.",
        ),
        ({"unseen": ["BKL"]}, "Unseen classes of 4.3: BKL instead of BKL, VASC, SCC."),
        ({"tuning_set": "b_box"}, "ODIN is tuned on B-Box instead of NCT."),
    ],
)
def test_one_change_is_one_difference_in_words(like_the_paper, values, words):
    assert differences(changed(like_the_paper, **values)) == [words]


def test_fewer_images_are_counted_over_all_parts(like_the_paper):
    counts = {name: {"train": 100, "test": 1} for name in COUNTS}
    assert differences(changed(like_the_paper, class_counts=counts)) == [
        "Images of 4.1: 808 instead of 25,331.",
        "Images of 4.2: 505 instead of 21,826.",
    ]


def test_sets_that_are_missing_smaller_or_stood_in_for_are_told(material):
    said = differences(material)
    assert "Clin-Skin: not measured." in said
    assert "B-Box: 300 images instead of 2,025." in said
    assert "ImageNet: photographs (Photographs of things) stands in for it." in said


def test_every_number_of_the_paper_stands_in_the_section(material):
    html = beside(material)
    cells = [cell for row in SETS for cell in table_1(row)]
    for cell in cells:
        pair = "".join(
            f'<td class="number">{value}</td>' for value in (cell.vanilla, cell.proposed)
        )
        assert pair in html
    assert '<td class="number">73.1</td><td class="number">77.9</td>' in html
    assert '<td class="number">56.3</td><td class="number">65.26</td>' in html


def test_a_set_that_is_missing_has_the_papers_numbers_and_no_others(material):
    row = beside(material).partition(">Clin-Skin</th>")[2].partition("</tr>")[0]
    assert row.endswith('<td colspan="4">not measured</td>')


def test_another_reading_of_a_set_stands_beside_the_same_numbers(material):
    row = beside(material).partition(">B-Box-70 of the image<")[2].partition("</tr>")[0]
    assert "another reading, beside the paper&#x27;s B-Box-70" in row


@pytest.mark.parametrize(
    ("bounds", "answer"), [((0.01, 0.05), "yes"), ((0.01, 0.04), "no"), ((None, None), ABSENT)]
)
def test_the_papers_difference_of_48_points_is_looked_for_in_our_interval(material, bounds, answer):
    where = ("generalization", "proposed", "vanilla", "test", "", "balanced_accuracy")
    row = ResultInterval(*where, 0.03, *bounds, n=99, trials=3, tuned=False)
    html = beside(material._replace(intervals=[row]))
    figure_3 = html.partition("Figure 3")[2].partition("</tr>")[0]
    assert figure_3.endswith(f"<td>{answer}</td>")


def test_a_difference_whose_interval_includes_zero_is_marked(material):
    where = ("generalization", "proposed", "vanilla", "test", "", "balanced_accuracy")
    row = ResultInterval(*where, 0.03, -0.01, 0.07, n=99, trials=3, tuned=False)
    html = beside(material._replace(intervals=[row]))
    assert "+3.0 \N{WHITE CIRCLE}<small>(\N{MINUS SIGN}1.0 to 7.0)</small>" in html


def test_only_a_run_that_compares_has_the_section(dermoscopy, finished):
    assert 'id="beside"' in page(dermoscopy)
    assert 'id="beside"' not in page(finished)


def test_unfinished_units_leakage_and_time_are_told(dermoscopy):
    html = page(dermoscopy)
    assert "1 unit is not in these numbers: generalization, trial 2, mse." in html
    assert (
        "4.1, trial 0: no group and no identical image is in two sets (1682 images in test)" in html
    )
    assert "15.1 hours" in html


def test_examples_stand_in_the_order_of_the_paper(material):
    names = [examples.name for examples in material.examples]
    assert names[2:8] == [
        "colon",
        "B-Box",
        "B-Box-70",
        "B-Box-70 of the image",
        "photographs",
        "Derm-Skin",
    ]


def test_the_figures_of_dermoscopy_are_drawn_where_there_is_data(material):
    assert {"confusions", "learning-rates"} <= draw_figures(material).keys()


def test_confusions_that_are_not_there_leave_the_rest(dermoscopy, tmp_path):
    folder = shutil.copytree(dermoscopy, tmp_path / "copy")
    (folder / "confusions.csv").unlink()
    assert "confusions" not in draw_figures(read_material(folder))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (["MEL", "NV", "BCC", "AKIEC", "DF"], ["BCC", "AKIEC", "DF"]),
        (["a", "b", "c", "d"], ["d", "b", "a"]),
    ],
)
def test_minority_classes_are_the_papers_or_else_the_rarest(material, classes, expected):
    images = dict(zip(classes, (30, 20, 40, 10, 50), strict=False))
    counts = {name: {"train": count} for name, count in images.items()}
    settings = {"classes": classes, "class_counts": counts}
    assert material._replace(settings=settings).minority == expected
