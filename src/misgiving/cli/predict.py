"""`misgiving predict`."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts.validators import Number

from misgiving.cli.options import (
    File,
    Reading,
    SecondOpinion,
    check_files,
    check_options,
    command,
)
from misgiving.cli.progress import Bar, progress_bars, say, say_skipped
from misgiving.cli.sources import (
    check_source,
    is_prediction_file,
    load_images,
    named_places,
    read_file,
)
from misgiving.errors import Parameter, UsageError
from misgiving.files import write_text

if TYPE_CHECKING:
    from pandas import DataFrame

    from misgiving.deferral.policy import Policy


@command
def predict(
    model: Path,
    images: list[Path],
    /,
    *,
    reading: Reading,
    second_opinion: SecondOpinion = None,
    out: File | None = None,
    contact_sheet: File | None = None,
    reviews: Annotated[int | None, cyclopts.Parameter(validator=Number(gte=1))] = None,
    value: Annotated[list[str] | None, cyclopts.Parameter(metavar="COLUMN=VALUE")] = None,
    overwrite: bool = False,
) -> None:
    """Predict the class and loss of each image, and write a table.

    The columns name the image, the predicted class, its probability and predicted loss (higher
    means more likely wrong; it has no unit), and the probability of each class. If the run has a
    policy (`misgiving calibrate`), the probabilities are calibrated, and there are also the
    decision (accept, defer or ood), its reason in words, and the numbers behind it; the reference
    of files describes each. The command also estimates how many answers are right, without labels,
    and says whether the images differ from the calibration cases: then the estimate is not to be
    trusted.

    With --on-bad-image skip, the last column, unreadable, has the reason why an image cannot be
    read. Until FILE is complete, finished parts are kept in FILE.parts: the same command resumes.
    A bundle (`misgiving export`) needs no torch.

    For a file of predictions, of which `calibrate --help` describes the columns, MODEL is a policy,
    and each row has a decision.

    Args:
        model: A folder that `train` or `export` wrote; for predictions, also one that
            `calibrate` wrote.
        images: Image files, or folders of them; or one file of predictions: .csv, .npz
            or .parquet.
        out: File for the table: .csv, .parquet or .jsonl. Default: the screen, as CSV.
        contact_sheet: Also write the images that were not accepted as one page, worst
            first.
        reviews: Leave so many images of these for people, the least certain first; those that
            the policy defers are among them.
        value: Of the column that a policy was calibrated for each value of, as site=A; of all these
            images. Can be repeated.
        overwrite: Replace existing files.
    """
    from misgiving.deferral.decision_tables import (
        check_kind,
        csv_table,
        with_reviews,
        write_table,
    )
    from misgiving.deferral.decisions import COLUMNS, WITHOUT_POLICY

    images = [Path(str(place).removeprefix("folder:")) for place in images]
    is_file = any(map(is_prediction_file, images))
    new = () if is_file else load_images(images, strict=reading.strict).ids
    names = images if is_file else list(map(Path, new))
    opinions = named_places("second_opinion", second_opinion)
    check_files(names, overwrite=overwrite, out=out, contact_sheet=contact_sheet)
    if out is not None:
        check_kind(out)
        if contact_sheet is not None and contact_sheet.resolve() == out.resolve():
            both = Parameter("out"), " and ", Parameter("contact_sheet")
            raise UsageError(*both, f" are both {out}; choose another file")
    with TemporaryDirectory() as folder:
        parts = Path(folder) if is_file or out is None else out.with_name(f"{out.name}.parts")
        if is_file:
            check_options("for predictions, which have columns", unused=["value"])
            table, policy = _decide_predictions(model, images, opinions)
        else:
            values = dict(word.partition("=")[::2] for word in value or ())
            table, policy = _decide_images(
                model, names, opinions, parts, reading, values, needs_policy=reviews is not None
            )
        table = table if reviews is None else with_reviews(table, reviews)
        unused = () if policy else COLUMNS[len(WITHOUT_POLICY) :]
        unused += ("unreadable",) * (reading.on_bad_image == "fail")
        written = table.drop(columns=[*unused], errors="ignore")
        if out is None:
            sys.stdout.writelines(csv_table(written))
        else:
            write_table(out, written)
            say(f"wrote {out}")
        if contact_sheet is not None:
            from misgiving.report.contact_sheet import contact_sheet as sheet_of

            write_text(contact_sheet, sheet_of(table))
            say(f"wrote {contact_sheet}")
        _say_facts(table, policy, reviews)
        shutil.rmtree(parts, ignore_errors=True)


def _decide_images(
    model: Path,
    names: Sequence[Path],
    opinions: Mapping[str, Path],
    parts: Path,
    reading: Reading,
    values: Mapping[str, str],
    *,
    needs_policy: bool,
) -> "tuple[DataFrame, Policy | None]":
    from misgiving.bundle.bundle import is_bundle
    from misgiving.bundle.decide_files import decide_files, load_model

    if is_bundle(model):
        check_options(f"for {model}, a bundle", unused=["second_opinion", "device"])
    with progress_bars("stopped; with --out, the same command resumes") as progress:
        loaded = load_model(model, opinions=opinions, count=len(names), device=reading.device)
        if needs_policy and loaded.policy is None:
            needs = Parameter("reviews"), " needs; run `misgiving calibrate`"
            raise UsageError(f"{model}: has no policy, which ", *needs)
        column = "" if loaded.policy is None else loaded.policy.certificate.targets.given_column
        if column not in ("", *values):
            raise UsageError(
                Parameter("value"), f" must be {column}=VALUE: each has its own threshold"
            )
        table = decide_files(
            loaded,
            list(map(str, names)),
            parts,
            on_image=Bar(progress, "predicting").at,
            on_bad_image=reading.on_bad_image,
            values=values,
        )
    return table, loaded.policy


def _decide_predictions(
    policy: Path, files: Sequence[Path], opinions: Mapping[str, Path]
) -> "tuple[DataFrame, Policy | None]":
    from misgiving.deferral.deferral import Deferral

    if len(files) > 1:
        raise UsageError(f"give one file of predictions alone, not {len(files)} files")
    check_source(files[0], images=["contact_sheet"])
    deferral = Deferral.load(policy)
    predictions = read_file(files[0], deferral, opinions)
    table = deferral.decide_for(predictions).to_frame()
    if predictions.paths:
        table = table.rename(columns={"id": "path"}).assign(path=predictions.paths)
    return table, deferral.policy_


def _say_facts(table: "DataFrame", policy: "Policy | None", reviews: int | None) -> None:
    """Report unreadable images, and with a policy the performance to expect."""
    from misgiving.data.decoding import BadImage
    from misgiving.deferral.expected_performance import error_bound_at, expected_performance
    from misgiving.deferral.sentences import lines

    if "unreadable" in table:
        bad = table[["path", "unreadable"]].dropna()
        say_skipped([*map(BadImage._make, bad.itertuples(index=False))])
    if policy is not None and reviews is not None:
        decided = int(table["decision"].notna().sum())
        scores = table["acceptance_score"][table["decision"] == "accept"]
        one_bound = len(scores) and not policy.certificate.by_value
        bound = error_bound_at(policy.certificate, float(scores.min())) if one_bound else None
        left = decided - len(scores)
        for sentence in lines("drift.txt", "reviewed", reviews, left, decided, bound, policy):
            say(sentence)
    if policy is not None and (expected := expected_performance(policy, table)):
        for sentence in lines("drift.txt", "performance", expected, policy):
            say(sentence)
