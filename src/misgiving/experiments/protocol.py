"""The paper's three experiments over trials: settings, units of work, and the loop over them.

A unit is one (experiment, trial, model). It has its own folder, which appears when the unit is
finished and is used again as long as its settings, the data and the code are the same.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import misgiving
from misgiving.checkpoint import Checkpoint, versions
from misgiving.data.datasets import Dataset, load_dataset
from misgiving.data.loading import ImageSet, prepare
from misgiving.data.ood_sets import OOD_SETS
from misgiving.data.preprocessing import AugmentationSettings, Preprocessing
from misgiving.data.splits import paper_split
from misgiving.errors import TrainingError, UsageError
from misgiving.evaluation import Measurement, measure_classification, predict
from misgiving.experiments.generalization import measure_generalization
from misgiving.experiments.new_classes import TOGETHER, unseen_images, unseen_sets
from misgiving.experiments.ood_detection import (
    OdinSearch,
    chosen_point,
    detect,
    grid_table,
    measure_detection,
    save_scores,
)
from misgiving.experiments.runs import ModelSettings, Parts, Run, align, train_run
from misgiving.files import whole_folder, write_csv, write_json
from misgiving.registry import Registry
from misgiving.training import Step, TrainingConfig, device_named, unheard

MODELS: Registry[dict[str, Any]] = Registry(
    "model",
    vanilla={"auxiliary": "none"},
    mse={"auxiliary": "mse"},
    detached={"auxiliary": "ranking", "joint_epochs": 0},
    proposed={"auxiliary": "ranking"},
)
"""The columns of every table: what each changes in the training configuration."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All settings of a reproduction.

    Attributes:
        data: Where the images come from, as in `misgiving train DATA`.
        in_distribution: Classes of 4.2 and 4.3; 4.1 has all classes.
        unseen: Classes of 4.3 that no model is trained on.
        ood_sets: Out-of-distribution sets of 4.2.
        search: ODIN's grid and the set that it is tuned on.
        model: The network.
        training: How to train it, before what each column of `models` changes.
        preprocessing: None for the data's own.
        augmentation: None for the data's own.
        validation_share: Share of images, drawn by class, that are not trained on.
        models: Columns of the tables.
        trials: Independent repetitions; trial t has the seed `seed + t` for everything.
        seed: See `trials`.
        replicates: Of the bootstrap behind every interval.
        notes: Sentences about the choices, for the report.
    """

    data: str
    in_distribution: tuple[str, ...]
    unseen: tuple[str, ...]
    ood_sets: tuple[str, ...]
    search: OdinSearch
    model: ModelSettings
    training: TrainingConfig
    preprocessing: Preprocessing | None = None
    augmentation: AugmentationSettings | None = None
    validation_share: float = 0.1
    models: tuple[str, ...] = tuple(MODELS)
    trials: int = 3
    seed: int = 0
    replicates: int = 1000
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.trials <= 1000:
            raise UsageError(f"trials must be at least 1 and at most 1000, got {self.trials}")
        if not 0 <= self.seed <= 2**32 - 1 - self.trials:
            raise UsageError(f"seed must be from 0 to 2**32 - 1 - trials, got {self.seed}")
        _check_models(self.models)
        for name in (*self.ood_sets, self.search.tuning_set):
            OOD_SETS[name]
        if self.search.tuning_set not in self.ood_sets:
            raise UsageError(f"the tuning set {self.search.tuning_set!r} must be one of ood_sets")


def _check_models(models: tuple[str, ...]) -> None:
    for name in models:
        MODELS[name]
    if len(set(models)) < len(models):
        raise UsageError(f"models must be named once each, got {', '.join(models)}")


DIGITS = Protocol(
    data="digits",
    in_distribution=("0", "1", "2", "3", "4", "5", "6"),
    unseen=("7", "8", "9"),
    ood_sets=("histology", "photographs", "boxes"),
    search=OdinSearch(
        tuning_set="histology", temperatures=(1.0, 10.0, 1000.0), epsilons=(0.0, 0.0014, 0.004)
    ),
    model=ModelSettings(backbone="vgg16_mini", pretrained=False),
    training=TrainingConfig(epochs=40, batch_size=16, learning_rate=1e-3, device="cpu"),
    validation_share=0.85,
    replicates=500,
    notes=(
        "Only 15 % of the digits are trained on, so that enough validation errors (at least 30) "
        "remain to be ranked: with the paper's 90 % this easy task would leave next to none.",
        "The learning rate is ten times the paper's, batches have 16 images and 40 epochs replace "
        "its 50, because this small network starts from random weights and has few images.",
    ),
)
PROTOCOLS: Registry[Protocol] = Registry("protocol", digits=DIGITS)


class Unit(NamedTuple):
    """One model of one trial; `ood_detection` units also serve 4.3, which uses the same models."""

    experiment: str
    trial: int
    model: str

    @property
    def folder(self) -> Path:
        """Where the unit is, relative to the reproduction's folder."""
        return Path("units", self.experiment, f"trial-{self.trial}", self.model)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """What to call as the work goes on; the default is silence."""

    on_start: Callable[[int, int], None] = unheard
    on_unit: Callable[[Unit], None] = unheard
    on_step: Callable[[Step], None] = unheard
    on_image: Callable[[int, int], None] | None = None


def units(protocol: Protocol) -> list[Unit]:
    """All units, trial by trial, so that the first trial's comparison is ready first."""
    return [
        Unit(experiment, trial, model)
        for trial in range(protocol.trials)
        for experiment in ("generalization", "ood_detection")
        for model in protocol.models
    ]


def protocol_for(data: str, *, epochs: int | None = None, **changes: Any) -> Protocol:
    """The protocol of some data with what is changed; a change of None is none.

    Raises:
        UsageError: There is no protocol for this data, or a value cannot be used.
    """
    protocol = PROTOCOLS[data]
    backbone = changes.pop("backbone", None)
    if backbone is not None:
        protocol = replace(protocol, model=replace(protocol.model, backbone=backbone))
    if epochs is not None:
        protocol = replace(protocol, training=replace(protocol.training, epochs=epochs))
    return replace(protocol, **{name: v for name, v in changes.items() if v is not None})


def reproduce_units(bench: "Bench", out: Path, *, jobs: int = 1) -> None:
    """Finish every unit that is not finished yet; each appears whole in `out/units`.

    With several jobs, units run in as many processes, which share the processor's cores.

    Raises:
        TrainingError: A process was killed, as happens when memory runs out.
    """
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, got {jobs}")
    all_units = units(bench.protocol)
    records = {unit: bench.record(unit) for unit in all_units}
    todo = [unit for unit in all_units if not is_finished(out / unit.folder, records[unit])]
    bench.listener.on_start(len(todo), len(all_units))
    if jobs == 1 or len(todo) < 2:
        for unit in todo:
            _finish(bench, unit, out, records[unit])
            bench.listener.on_unit(unit)
    else:
        _finish_in_processes(bench, {unit: records[unit] for unit in todo}, out, jobs)


def _finish(bench: "Bench", unit: Unit, out: Path, record: dict[str, Any]) -> None:
    with whole_folder(out / unit.folder) as partial:
        EXPERIMENTS[unit.experiment](bench, unit, partial)
        write_json(partial / "unit.json", record)


def _finish_in_processes(
    bench: "Bench", records: dict[Unit, dict[str, Any]], out: Path, jobs: int
) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = get_context("spawn")  # a forked process would inherit torch's dead threads
    setup = (bench.protocol, bench.cache, threads)
    with ProcessPoolExecutor(jobs, context, _set_up_process, setup) as pool:
        futures = {
            pool.submit(_finish_in_process, unit, out, record): unit
            for unit, record in records.items()
        }
        try:
            for future in as_completed(futures):
                future.result()
                bench.listener.on_unit(futures[future])
        except BrokenProcessPool as error:
            raise TrainingError(
                "a process was killed, perhaps for want of memory; run again with fewer --jobs"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_bench_of_process: "Bench | None" = None


def _set_up_process(protocol: Protocol, cache: Path, threads: int) -> None:
    global _bench_of_process  # a process's only way to keep what all its units use
    torch.set_num_threads(threads)
    _bench_of_process = Bench(protocol, cache)


def _finish_in_process(unit: Unit, out: Path, record: dict[str, Any]) -> None:
    if _bench_of_process is None:
        raise RuntimeError("the process was not set up")
    _finish(_bench_of_process, unit, out, record)


def is_finished(folder: Path, record: dict[str, Any]) -> bool:
    """Whether a unit's folder holds the results of exactly these settings, data and code."""
    try:
        return bool(json.loads((folder / "unit.json").read_text(encoding="utf-8")) == record)
    except (OSError, ValueError):
        return False


class Bench:
    """The prepared images of a reproduction, and the sets that are derived from them."""

    def __init__(self, protocol: Protocol, cache: Path, listener: Listener | None = None) -> None:
        self.protocol, self.cache = protocol, cache
        self.listener = listener or Listener()
        self.dataset = load_dataset(protocol.data)
        self.preprocessing = protocol.preprocessing or self.dataset.preprocessing
        self.augmentation = protocol.augmentation or self.dataset.augmentation
        for classes in (protocol.in_distribution, protocol.unseen):
            self.dataset.restrict(classes)  # refuses a class that the data does not have
        self.images = self._prepare(self.dataset)
        self.inliers, _ = align(self.images, protocol.in_distribution)
        self._code = _code_fingerprint()

    def run(self, unit: Unit) -> Run:
        """The training run of a unit; all models of a trial see the same split and batches."""
        images = self.images if unit.experiment == "generalization" else self.inliers
        seed = self.protocol.seed + unit.trial
        training = replace(self.protocol.training, seed=seed, **MODELS[unit.model])
        return Run(
            data=self.protocol.data,
            images=images,
            parts=self._parts(images, seed),
            preprocessing=self.preprocessing,
            augmentation=self.augmentation,
            model=self.protocol.model,
            training=training,
        )

    def outliers(self, trial: int) -> Iterator[tuple[str, ImageSet]]:
        """The OOD sets of a trial; derived sets come from images that were not trained on."""
        for name in self.protocol.ood_sets:
            yield name, self._prepare(self.ood_dataset(name, trial))

    def ood_dataset(self, name: str, trial: int) -> Dataset:
        """One OOD set of a trial, before preprocessing."""
        seed = self.protocol.seed + trial
        inliers = self.dataset.restrict(self.protocol.in_distribution)
        held_out = np.flatnonzero(self._parts(self.inliers, seed) == "validation")
        return OOD_SETS[name](inliers.select(held_out), seed=seed)

    def record(self, unit: Unit) -> dict[str, Any]:
        """What must be the same for a finished unit to be used again."""
        protocol = {
            "data": self.protocol.data,
            "search": asdict(self.protocol.search),
            "ood_sets": self.protocol.ood_sets,
            "unseen": self.protocol.unseen,
            "validation_share": self.protocol.validation_share,
            "seed": self.protocol.seed,
        }
        run = self.run(unit)
        record = {
            "unit": unit._asdict(),
            "protocol": protocol,
            "model": run.model.to_dict(),
            "training": run.training.to_dict(),
            "preprocessing": run.preprocessing.to_dict(),
            "augmentation": run.augmentation.to_dict(),
            "images": run.images.fingerprint,
            "weights": _content(run.model.weights),
            "code": self._code,
            "versions": versions(),
        }
        return dict(json.loads(json.dumps(record)))  # tuples become lists, as in the file

    def _parts(self, images: ImageSet, seed: int) -> Parts:
        return paper_split(
            images.labels,
            images.classes,
            validation_share=self.protocol.validation_share,
            seed=seed,
        )

    def _prepare(self, dataset: Dataset) -> ImageSet:
        return prepare(dataset, self.preprocessing, cache=self.cache, report=self.listener.on_image)


def _generalization(bench: Bench, unit: Unit, folder: Path) -> None:
    run, checkpoint = _train(bench, unit, folder)
    measurements = measure_generalization(checkpoint, run.part("validation"), folder)
    _write_results(folder, {"generalization": measurements}, unit)


def _ood_detection(bench: Bench, unit: Unit, folder: Path) -> None:
    """Sections 4.2 and 4.3: the same model, the same inliers, two kinds of outliers."""
    run, checkpoint = _train(bench, unit, folder)
    inliers = run.part("validation")
    predictions = predict(checkpoint.model, inliers, estimates_losses=checkpoint.estimates_losses)
    predictions.save(folder / "predictions" / "validation.safetensors")
    together = unseen_images(bench.images, bench.protocol.unseen)
    outliers = dict(bench.outliers(unit.trial)) | {TOGETHER: together}
    search = bench.protocol.search
    detection = detect(checkpoint, inliers, outliers, search)
    write_csv(folder / "odin_grid.csv", *grid_table(detection.tuning))
    save_scores(folder, "validation", detection.inliers, inliers.groups)
    results = {
        "ood_detection": [
            *measure_classification(predictions, "validation"),
            *chosen_point(detection.tuning, search.tuning_set),
        ],
        "new_classes": [],
    }
    for name in bench.protocol.ood_sets:
        scores = detection.outliers[name]
        save_scores(folder, name, scores, outliers[name].groups)
        results["ood_detection"] += measure_detection(detection.inliers, scores, name)
    for name, rows in unseen_sets(together, bench.protocol.unseen).items():
        scores = {key: values[rows] for key, values in detection.outliers[TOGETHER].items()}
        save_scores(folder, name, scores, together.select(rows).groups)
        results["new_classes"] += measure_detection(detection.inliers, scores, name)
    _write_results(folder, results, unit)


EXPERIMENTS: Registry[Callable[[Bench, Unit, Path], None]] = Registry(
    "experiment", generalization=_generalization, ood_detection=_ood_detection
)


def _train(bench: Bench, unit: Unit, folder: Path) -> tuple[Run, Checkpoint]:
    run = bench.run(unit)
    checkpoint = train_run(run, folder / "run", on_step=bench.listener.on_step)
    checkpoint.model.to(device_named(run.training.device))
    return run, checkpoint


RESULT_COLUMNS = ("experiment", "trial", "model", *Measurement._fields)


def _write_results(folder: Path, results: dict[str, list[Measurement]], unit: Unit) -> None:
    rows = [
        (experiment, unit.trial, unit.model, *measurement)
        for experiment, measurements in results.items()
        for measurement in measurements
    ]
    write_csv(folder / "results.csv", RESULT_COLUMNS, rows)


def _content(path: Path | None) -> str | None:
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def _code_fingerprint() -> str:
    """A hash of the code, less what only shows results: old units must not pass for new."""
    root = Path(misgiving.__file__).parent
    shown = {root / "cli.py", root / "__main__.py", *(root / "report").rglob("*.py")}
    digest = hashlib.sha256()
    for path in sorted(set(root.rglob("*.py")) - shown):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
