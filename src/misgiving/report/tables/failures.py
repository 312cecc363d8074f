"""Whether a failure score tells wrong answers better than MSP does, in the same model."""

from collections.abc import Iterator, Sequence

from misgiving.report.tables.records import ResultInterval, main_model, models_of, select
from misgiving.report.tables.verdicts import (
    PLAIN,
    POINTS,
    Comparison,
    Scale,
    Verdict,
    by_verdict,
)

MSP = "msp"
JUDGED = {
    "predicted_loss": "predicted loss",
    "calibrated": "calibrated probability",
    "combination": "combination",
}
"""The scores of which a sentence says whether they beat MSP."""
APART = "; it is measured where a part was kept apart to learn it"
NEEDS = {"calibrated": APART, "combination": APART}

QUANTITIES: dict[str, tuple[str, Scale]] = {
    "aurc": ("AURC", PLAIN),
    "error_auroc": ("AUROC for errors", POINTS),
}
COUNTED = {
    Verdict.BETTER: "better than MSP's in",
    Verdict.TIED: "not to be told apart in",
    Verdict.WORSE: "worse in",
    Verdict.UNKNOWN: "without an interval in",
}


def failure_sentences(intervals: Sequence[ResultInterval], *, part: str) -> list[str]:
    """For each judged score the paired differences from MSP, in the proposed model and in all."""
    wanted = {"experiment": "generalization", "dataset": part, "baseline": MSP}
    rows = select(intervals, **wanted)
    said = []
    for detector, words in JUDGED.items():
        if here := select(rows, detector=detector):
            main = main_model(models_of(here))
            of_main = ". ".join(_in_main_model(select(here, model=main), main, words))
            said.append(f"{of_main}. Over all models: {'; '.join(_in_all_models(here))}.")
        else:
            reason = f"intervals.csv holds no difference of it from MSP{NEEDS.get(detector, '')}"
            said.append(f"Whether {words} beats MSP cannot be judged: {reason}.")
    return said


def _in_main_model(rows: Sequence[ResultInterval], model: str, score: str) -> Iterator[str]:
    """One clause for each outcome, with the numbers of the metrics that have it."""
    words = Comparison("", f"The {model} model's {score}", "tells errors", "its MSP", "")
    for outcome, found in by_verdict(rows).items():
        numbers = [
            f"{quantity} {scale.difference(row)}"
            for metric, (quantity, scale) in QUANTITIES.items()
            for row in select(filter(None, found), metric=metric)
        ]
        if numbers:
            yield f"{_outcome(words, outcome)}: {'; '.join(numbers)}"


def _outcome(words: Comparison, outcome: Verdict) -> str:
    if outcome is Verdict.UNKNOWN:
        return f"{words.subject} cannot be judged against {words.baseline}"
    return words.outcome(outcome)


def _in_all_models(rows: Sequence[ResultInterval]) -> Iterator[str]:
    for metric, (quantity, _) in QUANTITIES.items():
        groups = by_verdict(select(rows, metric=metric))
        counts = [
            f"{COUNTED[outcome]} {len(found)} ({', '.join(models_of(filter(None, found)))})"
            for outcome, found in groups.items()
            if found
        ]
        if counts:
            yield f"{quantity} {', '.join(counts)}"
