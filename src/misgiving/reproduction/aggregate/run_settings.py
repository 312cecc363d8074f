"""The settings and the provenance of a reproduction, as values that the report puts into words."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from misgiving.checkpoint import versions
from misgiving.data.splits import leakage_of
from misgiving.reproduction.protocol import DERMOSCOPY, Unit, units
from misgiving.reproduction.trial_data import TrialData
from misgiving.results.formats import read_document
from misgiving.results.schema import (
    OdinGrid,
    Settings,
    SkippedImage,
    SplitLeakage,
    SplitSize,
    UnitName,
    UnitTiming,
)

EXPERIMENTS = ("generalization", "ood_detection")  # those with images of their own


def settings(trial_data: TrialData, finished: Sequence[Unit], out: Path) -> Settings:
    """Gather the content of `settings.json`."""
    protocol, sets = trial_data.protocol, trial_data.evaluation_sets
    timings = [timing(out / unit.folder) for unit in finished]
    return Settings(
        data=protocol.data,
        images=len(trial_data.images),
        in_distribution_images=len(trial_data.inliers),
        classes=trial_data.images.classes,
        in_distribution=protocol.in_distribution,
        unseen=protocol.unseen,
        class_counts=_class_counts(trial_data),
        split=protocol.split,
        validation_share=protocol.validation_share,
        monitored_set=sets.monitored,
        tuning_set=sets.tuning,
        measured_set=sets.measured,
        sizes=tuple(_sizes(trial_data)),
        odin=OdinGrid(
            tuning_set=protocol.search.tuning_set,
            temperatures=tuple(protocol.search.temperatures),
            epsilons=tuple(protocol.search.epsilons),
        ),
        models=protocol.models,
        trials=protocol.trials,
        seed=protocol.seed,
        learning_rates=tuple(
            sorted({protocol.training.learning_rate, *protocol.learning_rates}),
        ),
        model=protocol.model.to_dict(),
        training=protocol.training.to_dict(),
        preprocessing=trial_data.preprocessing.to_dict(),
        augmentation=trial_data.augmentation.to_dict(),
        compares_with_paper=set(protocol.in_distribution) == set(DERMOSCOPY.in_distribution),
        versions=versions(),
        fingerprint=trial_data.images.fingerprint,
        leakage=_leakage(trial_data),
        missing_units=tuple(UnitName(*unit) for unit in units(protocol) if unit not in finished),
        skipped=tuple(
            SkippedImage(name, *one) for name, bad in trial_data.skipped().items() for one in bad
        ),
        unit_seconds=sum(known.seconds for known in timings),
        unit_threads=tuple(sorted({known.threads for known in timings})),
        notes=protocol.notes,
    )


def timing(folder: Path) -> UnitTiming:
    """The time that a unit took, and its threads."""
    return read_document(folder / "timing.json", UnitTiming)


def _class_counts(trial_data: TrialData) -> dict[str, dict[str, int]]:
    run = trial_data.run(Unit("generalization", 0, trial_data.protocol.models[0]))
    return {
        name: {
            str(part): int(np.sum((run.images.labels == label) & (run.sets == part)))
            for part in np.unique(run.sets)
        }
        for label, name in enumerate(run.images.classes)
    }


def _sizes(trial_data: TrialData) -> Iterator[SplitSize]:
    for experiment in EXPERIMENTS:
        run = trial_data.run(Unit(experiment, 0, trial_data.protocol.models[0]))
        trained, measured = (
            len(run.images_of(name)) for name in ("train", run.evaluation_sets.measured)
        )
        yield SplitSize(experiment, len(run.images), trained, measured)


def _leakage(trial_data: TrialData) -> tuple[SplitLeakage, ...]:
    """The groups and images that sets share, in each trial of each experiment."""
    protocol, measured = trial_data.protocol, trial_data.evaluation_sets.measured
    names = [
        Unit(experiment, trial, protocol.models[0])
        for experiment in EXPERIMENTS
        for trial in range(protocol.trials)
    ]
    return tuple(
        SplitLeakage(unit.experiment, unit.trial, *leakage_of(trial_data.split(unit), measured))
        for unit in names
    )
