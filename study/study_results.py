"""Write study/results.md from the tables of the study's units.

python study/study_results.py [FOLDER]
"""

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from study_folds import of_folds
from study_format import FEWER, average, by_trial, table, with_interval
from study_hypotheses import (
    REGISTERED,
    TUNED_ON,
    UNSEEN_CLASSES,
    Hypothesis,
    Rows,
    difference,
    hypotheses,
    read_results,
    verdicts,
)
from study_paper_folds import (
    FIGURE,
    curve_results,
    curves_figure,
    of_paper_folds,
    read_curves,
)
from study_published import beside_published, of_effects

from misgiving.metrics.selective import ACCEPTED_ERRORS
from misgiving.report.figures import render
from misgiving.reproduction.published import title
from misgiving.reproduction.report.names import DETECTOR_NAMES

HERE = Path(__file__).resolve().parent
CONFIRMING = 10  # trials of the confirmation
CHANGED = "e"  # the estimator was changed after the first results were seen
NOTES = {
    "modern": "The form of the error estimator was chosen on trials 0 to 4 of `vanilla`, so its "
    "results in this part are optimistic. (e) shows the first form.\n",
    "paper": "(e) shows the new form of the error estimator. It was chosen on the same images and "
    "splits, in trainings of another network.\n",
}
UNSEEN = "unseen"  # the images of calibration and test set together
DEFAULT = "lambda 0.5, margin 1"  # of the part on sensitivity
SCORES = ("msp", "calibrated", "error_estimator", "predicted_loss")
PLAIN = (("", "accuracy"), ("", "balanced_accuracy"), ("predicted_loss", "spearman"))
PLAIN_TITLES = ("accuracy", "balanced accuracy", "Spearman, predicted and trained loss")
AREA_TITLES = tuple(f"AURC {score}" for score in SCORES)
CERTIFIED = (0.05, 0.1)
BOTH = ("vanilla", "proposed")
ACCEPTANCE, ERROR_OR_OOD = "acceptance_score", "error_or_ood"
REVIEWED = (ERROR_OR_OOD, ACCEPTANCE, "msp", "energy", "vim", "knn", "knn_taps")  # in mixtures


def of_hypotheses(rows: Rows) -> Iterator[str]:
    """The registered hypotheses, with the value of each trial."""
    tested = hypotheses(rows)
    lines = []
    for hypothesis, (adjusted, verdict) in zip(tested, verdicts(tested), strict=True):
        p_value = "-" if adjusted is None else f"{adjusted:.3f}"
        if hypothesis.name == CHANGED and rows(
            "generalization", "vanilla", "test", REGISTERED, "aurc"
        ):
            verdict += " (first form); see confirmation"
        elif hypothesis.name == CHANGED and adjusted is not None:
            verdict += " (new form, chosen on these images and splits: no confirmation)"
        values = by_trial(hypothesis.values), with_interval(hypothesis.values, hypothesis.ratio)
        lines.append((hypothesis.name, hypothesis.measure, *values, p_value, f"**{verdict}**"))
    head = ("hypothesis", "measure", "by trial", "mean (95 %)", "Holm-adjusted p", "verdict")
    yield from table(head, lines)


def of_confirmation(rows: Rows) -> Iterator[str]:
    """The error estimator on trials that are newer than it."""
    ratio = rows.ratio("generalization", UNSEEN)
    areas = {score: rows("generalization", "vanilla", UNSEEN, score, "aurc") for score in SCORES}
    lines = []
    for against in ("calibrated", "msp"):
        measure = f"AURC, error estimator - {against}, of vanilla"
        values = difference(areas["error_estimator"], areas[against])
        tested = Hypothesis("e", measure, values, ratio, -1)
        [(adjusted, verdict)] = verdicts([tested], trials=CONFIRMING)
        p_value = "-" if adjusted is None else f"{adjusted:.2g}"
        judged = f"**{verdict}**" if against == "calibrated" else "secondary"
        lines.append((measure, by_trial(values), with_interval(values, ratio), p_value, judged))
    compared = {
        "AURC on the test set": ("test", "{}", "aurc"),
        "coverage of the test set at 10 % risk": ("test", "{}", "coverage_at_risk/0.1"),
    }
    for target in CERTIFIED:
        policy = "policy_test", f"certified/{{}}/{target:g}", "coverage"
        compared[f"coverage certified for {100 * target:.0f} %"] = policy
    ratio = rows.ratio("generalization")
    for name, measured in compared.items():
        of_both = (
            rows("generalization", "vanilla", *(part.format(score) for part in measured))
            for score in ("error_estimator", "calibrated")
        )
        values = difference(*of_both)
        measure = f"{name}, error estimator - calibrated"
        lines.append((measure, by_trial(values), with_interval(values, ratio), "-", "secondary"))
    yield "Unless stated otherwise, AURC is of the test and calibration sets together.\n"
    yield from table(("measure", "by trial", "mean (95 %)", "p", "verdict"), lines)


def of_models(rows: Rows) -> Iterator[str]:
    """Means over trials for every model."""
    ratio, lines = rows.ratio("generalization"), []
    for model in rows.models():
        plain = [rows("generalization", model, "test", *measured) for measured in PLAIN]
        areas = [rows("generalization", model, "test", score, "aurc") for score in SCORES]
        if plain[0]:
            less_msp = with_interval(difference(areas[-1], areas[0]), ratio)
            lines.append((model, str(len(plain[0])), *map(average, plain + areas), less_msp))
    head = ("model", "trials", *PLAIN_TITLES)
    yield (
        "Means over the finished trials. AURC by score: lower is better. Compare models with "
        "different numbers of trials only by the differences below. Last column: AURC of the "
        f"predicted loss minus that of MSP, with the t-interval over trials, or {FEWER}.\n"
    )
    yield from table((*head, *AREA_TITLES, "predicted loss - MSP"), lines)


def against_vanilla(rows: Rows) -> Iterator[str]:
    """Differences of every model from vanilla, unadjusted."""
    ratio, five = rows.ratio("generalization"), rows.ratio("ood_detection")
    compared = (*PLAIN[:2], ("msp", "aurc"), ("error_estimator", "aurc"))
    lines = []
    for model in rows.models():
        if model == "vanilla":
            continue
        measured = [
            difference(
                *(rows("generalization", name, "test", *names) for name in (model, "vanilla"))
            )
            for names in compared
        ]
        unseen = difference(
            *(
                rows("new_classes", name, UNSEEN_CLASSES, "odin", "auroc")
                for name in (model, "vanilla")
            )
        )
        ood = difference(rows.ood_mean(model), rows.ood_mean("vanilla"))
        lines.append(
            (
                model,
                str(len(measured[0])),
                *(with_interval(values, ratio) for values in measured),
                *(with_interval(values, five) for values in (ood, unseen)),
            )
        )
    yield "### Differences from vanilla\n"
    yield (
        f"With the t-interval over trials, unadjusted, or {FEWER}. "
        "`detached` and `posthoc` have the classifier of vanilla.\n"
    )
    head = (
        "model", "trials", "accuracy", "balanced accuracy", "AURC MSP", "AURC error estimator",
        "AUROC of ODIN", "AUROC, unseen classes",
    )  # fmt: skip
    yield from table(head, lines)


def of_error_estimator(rows: Rows) -> Iterator[str]:
    """The error estimator beside `calibrated` and MSP."""
    ratio, lines = rows.ratio("generalization"), []
    for model in rows.models():
        areas = {score: rows("generalization", model, "test", score, "aurc") for score in SCORES}
        if not areas["error_estimator"]:
            continue
        three = SCORES[:3]
        covered = [
            average(rows("generalization", model, "test", score, "coverage_at_risk/0.1"))
            for score in three
        ]
        certified = [
            " / ".join(_of_policy(rows, model, score, target) for score in three)
            for target in CERTIFIED
        ]
        lines.append(
            (
                model,
                with_interval(difference(areas["error_estimator"], areas["calibrated"]), ratio),
                with_interval(difference(areas["error_estimator"], areas["msp"]), ratio),
                " / ".join(covered),
                *certified,
            )
        )
    yield (
        "The error estimator beside MSP and `calibrated`. AURC: difference on the test set, below "
        "zero where the error estimator is better; mean with the 95 % t-interval over trials, "
        f"unadjusted, or {FEWER}. The other columns: means over trials for MSP / `calibrated` / "
        "the error estimator. Coverage at 10 % risk: the share of the test images that could be "
        "accepted with 10 % errors if their labels were known. Certified 5 % (10 %): the share "
        "that a policy accepts which was calibrated for this target with 95 % confidence. For "
        'example, "0.45 (0.04; 0.03, 1 of 5)" means that 45 % of the images are accepted. Where '
        "any is, 4 % of the accepted images are wrong, and for one image of each lesion, which is "
        "what is certified, 3 % (means over the same trials); in 1 of 5 trials that "
        "is above the target. All policies of a trial share its images. Errors are missing where "
        "nothing was accepted, those by lesion also where scores were not kept.\n"
    )
    of_three = "(MSP / calibrated / error estimator)"
    head = (
        "model", "AURC, error estimator - calibrated", "AURC, error estimator - MSP",
        f"coverage at 10 % risk {of_three}", f"coverage (errors), certified 5 % {of_three}",
        f"coverage (errors), certified 10 % {of_three}",
    )  # fmt: skip
    yield from table(head, lines)


def _of_policy(rows: Rows, model: str, score: str, target: float) -> str:
    """Mean coverage of certified policies, and in brackets the errors among what they accept."""
    coverage, by_images, by_groups = (
        rows("generalization", model, "policy_test", f"certified/{score}/{target:g}", metric)
        for metric in ("coverage", *ACCEPTED_ERRORS)
    )
    if by_groups:  # both over the same trials
        by_images = {trial: by_images[trial] for trial in by_groups}
    errors = [average(by_images)]
    if by_groups:
        above = sum(error > target for error in by_groups.values())
        errors += [f"{average(by_groups)}, {above} of {len(by_groups)}"]
    return f"{average(coverage)} ({'; '.join(errors)})"


def of_ood_sets(rows: Rows) -> Iterator[str]:
    """AUROC of tuned ODIN on every set."""
    sets = rows.ood_sets()
    lines = []
    for model in rows.models():
        cells = [average(rows("ood_detection", model, name, "odin", "auroc")) for name in sets]
        unseen = rows("new_classes", model, UNSEEN_CLASSES, "odin", "auroc")
        if unseen:
            lines.append((model, str(len(unseen)), *cells, average(unseen)))
    yield f"AUROC of ODIN, tuned on {TUNED_ON}; means over the trials that are finished.\n"
    yield from table(("model", "trials", *map(title, sets), "unseen classes"), lines)


REMOVED = {
    "relative_mahalanobis": "relative Mahalanobis",
    "nnguide": "NNGuide",
    "nci": "NCI",
    "fdbd": "fDBD",
    "kl_matching": "KL matching",
}
"""Detectors that were measured and are not in the package any more (commit 9f824343 has them)."""


def of_detectors(rows: Rows) -> Iterator[str]:
    """AUROC of every detector on every set, of the two models of the hypotheses."""
    sets = [("ood_detection", name) for name in rows.ood_sets()] + [("new_classes", UNSEEN_CLASSES)]
    first, lines = sets[0][1], []
    trials = max(len(rows("ood_detection", model, first, "odin", "auroc")) for model in BOTH)
    for detector, name in {**DETECTOR_NAMES, **REMOVED, ERROR_OR_OOD: "error or OOD"}.items():
        cells = [
            " / ".join(
                average(rows(experiment, model, dataset, detector, "auroc"), digits=2)
                for model in BOTH
            )
            for experiment, dataset in sets
        ]
        finished = max(
            len(rows("ood_detection", model, first, detector, "auroc")) for model in BOTH
        )
        if finished:
            lines.append((name if finished == trials else f"{name} ({finished} trials)", *cells))
    yield (
        "AUROC of every detector, vanilla / proposed, means over trials. Above 0.5, OOD images "
        "tend to have lower scores, as they should; 0.5 is chance. ODIN was tuned, and the best "
        f"on tuning chosen, on {TUNED_ON}, so their values there are optimistic. Without OOD "
        "images: the epsilon of ODIN is chosen by the confidence on in-distribution images.\n"
    )
    yield from table(("detector", *(title(name) for _, name in sets)), lines)


def of_reviewer(rows: Rows) -> Iterator[str]:
    """One score for errors and OOD images, less the separate ones."""
    ratio, lines = rows.ratio("ood_detection"), []
    for model in rows.models():
        of_test = partial(rows, "ood_detection", model, "test")
        of_unseen = partial(rows, "new_classes", model, UNSEEN_CLASSES)
        alone = difference(*(of_test(score, "aurc") for score in (ERROR_OR_OOD, ACCEPTANCE)))
        if not alone:
            continue
        areas = rows.mixtures_mean(model, ERROR_OR_OOD)
        mixed = [difference(areas, rows.mixtures_mean(model, score)) for score in REVIEWED[1:]]
        unseen = difference(
            *(of_unseen(score, "mixed_aurc") for score in (ERROR_OR_OOD, ACCEPTANCE))
        )
        intervals = (with_interval(values, ratio) for values in (*mixed, unseen, alone))
        lines.append((model, str(len(areas)), average(areas), *intervals))
    if not lines:
        return
    yield (
        "One score that orders errors and OOD images together (`error_or_ood`). First its AURC in "
        "mixtures, half of them OOD images that count as errors (mean over all sets); then this "
        "AURC minus that of each other score, below zero where `error_or_ood` is better; last, "
        "minus the acceptance score's with unseen classes as OOD images, and without OOD images. "
        f"With the t-interval over trials, unadjusted, or {FEWER}.\n"
    )
    head = (
        "model", "trials", ERROR_OR_OOD, *(f"minus {score}" for score in REVIEWED[1:]),
        f"unseen classes, minus {ACCEPTANCE}", f"no OOD images, minus {ACCEPTANCE}",
    )  # fmt: skip
    yield from table(head, lines)


def of_settings(rows: Rows) -> Iterator[str]:
    """Sensitivity of `proposed` to its settings."""
    lines, differences = [], []
    for setting in rows.experiments():
        of_test = partial(rows, setting, rows.model_of(setting), "test")
        plain = [of_test(*measured) for measured in PLAIN]
        areas = [of_test(score, "aurc") for score in SCORES]
        lines.append((setting, str(len(plain[0])), *map(average, plain + areas)))
        if setting == DEFAULT:
            continue
        of_default = partial(rows, DEFAULT, "proposed", "test")
        changes = [
            by_trial(difference(of_test(*names), of_default(*names)))
            for names in (*PLAIN, ("error_estimator", "aurc"), ("predicted_loss", "aurc"))
        ]
        differences.append((setting, *changes))
    yield (
        "EfficientNet-Lite0 at 64 px, 4 epochs, recipe `modern` (lambda 0.5, margin 1, the "
        "estimator's rate x 10, four taps); means over trials.\n"
    )
    yield from table(("setting", "trials", *PLAIN_TITLES, *AREA_TITLES), lines)
    yield f"Difference from {DEFAULT}, by trial.\n"
    yield from table(("setting", *PLAIN_TITLES, *AREA_TITLES[2:]), differences)


OF_TRIALS = (
    of_hypotheses, of_effects, of_error_estimator, of_models, against_vanilla, of_ood_sets,
    of_detectors, of_reviewer, beside_published,
)  # fmt: skip
SECTIONS = {
    "folds": (of_folds,),
    "paper_folds": (of_paper_folds,),
    "confirmation": (of_confirmation, of_error_estimator),
    "sensitivity": (of_settings,),
}
"""Sections of a part's results that differ from `OF_TRIALS`."""
PAGES = ("paper_folds", "folds", "confirmation", "modern", "paper", "sensitivity", "registered")
"""The tables in the order of the page."""


def page(parts: Mapping[str, Rows]) -> str:
    """The page of results."""
    lines = [
        "# Results of the study",
        "",
        "Made by `study/study_results.py` from the tables beside this page. The plan, with "
        "hypotheses, measures and the rule of evidence, is in [README.md](README.md). Planned "
        "parts, models and trials that are missing here have no finished result. Commit 44cd948 "
        "can run all parts but `folds` and `paper_folds`. The models `held_out`, `posthoc` and "
        "`proposed_neighbours`, the setting `average of weights` and the score `error_or_ood` are "
        "no longer in the package. "
        "Error estimators and policies are of that commit, too: the search for thresholds, and the "
        "probabilities that the estimator gives, have been replaced since.",
        "",
    ]
    for part, rows in parts.items():
        lines += [f"## Part {part}", "", *([NOTES[part]] if part in NOTES else ())]
        for section in SECTIONS.get(part, OF_TRIALS):
            lines += section(rows)
    return "\n".join(lines).rstrip() + "\n"


def write_page(folder: Path) -> None:
    """Write `results.md` from the tables of a folder."""
    tables = {
        part: read_results(folder / f"{part}.csv")
        for part in PAGES
        if (folder / f"{part}.csv").exists()
    }
    if "paper_folds" in tables:
        curves = read_curves(folder)
        tables["paper_folds"] += curve_results(curves)
        (folder / FIGURE).write_bytes(render(curves_figure(curves), "png"))
    registered = tables.pop("registered", [])
    if "modern" in tables:
        tables["modern"] += registered
    parts = {part: Rows(results) for part, results in tables.items()}
    (folder / "results.md").write_text(page(parts), encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
