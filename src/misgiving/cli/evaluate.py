"""`misgiving evaluate`."""

from misgiving.cli.options import (
    Cache,
    DataOrNone,
    Folder,
    Reading,
    RunOrPredictions,
    SecondOpinion,
    check_not_input,
    command,
)
from misgiving.cli.progress import say
from misgiving.cli.sources import (
    check_source,
    load_data,
    named_places,
    open_run,
    read_file,
    say_left_out,
)
from misgiving.errors import visible
from misgiving.files import check_writable


@command
def evaluate(
    run: RunOrPredictions,
    data: DataOrNone = None,
    /,
    *,
    reading: Reading,
    cache: Cache = None,
    policy: Folder | None = None,
    ood: list[str] | None = None,
    set: str | None = None,
    readers: bool = False,
    score: list[str] | None = None,
    second_opinion: SecondOpinion = None,
    out: Folder | None = None,
) -> None:
    """Measure a trained model on images that it was not trained on, and write a report.

    Leaves out the images of DATA on which the model was trained (recognised by their content), near
    duplicates of them, and new images of the same patients or lesions, and reports how many.
    Measures classification, loss estimation and, for each --ood folder, the OOD metrics of several
    detectors, with in-distribution as the positive class.

    If there is a policy, also measures its decisions: shares accepted, deferred and called OOD, and
    errors among the accepted, by class and by every column of metadata. Images of groups that the
    policy was fitted on are left out of this.

    `report.html` is one file that needs no network. A file of predictions in place of RUN and DATA
    is measured in the same way; `calibrate --help` describes its columns.

    Args:
        policy: For a file of predictions: the policy to measure, a folder that `calibrate`
            wrote. A run has its own.
        ood: A folder of out-of-distribution images, such as `b_box=FOLDER`; for a
            file of predictions, another such file. Default name: that of the folder or file. Can be
            repeated.
        set: Measure only this set of the run's split, or of the column set, such as
            validation or test. Default: its set test, or else all images that the model was not
            trained on.
        readers: Also measure those who read the images, whose answers are the columns reader_NAME:
            each alone, their agreement, and the team of each with the policy. It is tuned on the
            sets tune and calibrate.
        score: A failure score of your own, from `Predictions` to confidences,
            which is measured beside the others. Can be repeated.
        out: Folder for report.html, measurements.csv and predictions. Default:
            RUN/evaluation; required for a file of predictions.
    """
    is_file = check_source(run, images=["data"], files=["policy"], needed=["out"])
    out = out or run / "evaluation"
    from misgiving.bundle.bundle import used_opinions
    from misgiving.data.datasets import read_ood_folder, tables_of
    from misgiving.deferral.deferral import Deferral
    from misgiving.evaluation.evaluate import (
        EVALUATION_FILES,
        REPORT,
        RESERVED_NAMES,
        check_own_files,
        write_evaluation,
    )
    from misgiving.evaluation.evaluate import evaluate as measure
    from misgiving.evaluation.measures import measured_sets, with_score
    from misgiving.evaluation.readers import TUNING
    from misgiving.registry import own_function
    from misgiving.report.evaluation import findings, notes, write_report

    places = named_places("ood", ood, taken=(set, *RESERVED_NAMES))
    opinions = named_places("second_opinion", second_opinion)
    scores = {name: own_function(name) for name in score or ()}
    check_writable(out, folder=True)
    for name in EVALUATION_FILES:
        check_not_input(out / name, [run, *places.values()] if is_file else tables_of(str(data)))
    check_own_files(out)
    sources, picture = [], None
    if is_file:
        deferral = None if policy is None else Deferral.load(policy)
        others = [read_file(path, deferral) for path in places.values()]  # with opinions in them
        predictions = [read_file(run, deferral, opinions), *others]
    else:
        folders = [
            load_data(read_ood_folder(folder, name=name), strict=reading.strict)
            for name, folder in places.items()
        ]
        with open_run(run, reading, cache=cache, opinions=opinions) as trained:
            data = data or trained.checkpoint.data.name
            deferral = Deferral.of_run(run, model=trained.fingerprint)
            trained.opinions = used_opinions(
                None if deferral is None else deferral.policy_, trained.opinions
            )
            predicted = trained.predict(
                load_data(data, strict=reading.strict),
                sets=lambda sets: {*measured_sets(sets, set), *(TUNING if readers else ())},
                odin=bool(places),
            )
            outliers = [trained.predict_unlabelled(folder, odin=True) for folder in folders]
        sources = [*zip((data, *places), (predicted, *outliers), strict=True)]
        predictions = [each.predictions for _, each in sources]
        picture = predicted.picture
    for name, function in scores.items():
        predictions = [with_score(each, name, function) for each in predictions]
    measured, *unfamiliar = predictions
    ood_predictions = dict(zip(places, unfamiliar, strict=True))
    evaluation = measure(measured, deferral, set=set, ood=ood_predictions, readers=readers)
    skipped = [(name, *bad) for name, each in sources for bad in each.skipped]
    write_evaluation(evaluation, out, skipped=skipped)
    write_report(evaluation, out / REPORT, title=data or run.name, pictures=picture)
    say_left_out(sources)
    for sentence in notes(evaluation):
        say(sentence)
    for sentence in findings(evaluation):
        print(visible(sentence))
    say(f"wrote {out / REPORT}, and every measurement beside it")
