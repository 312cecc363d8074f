"""Freeze the outputs of the package, and compare those of two versions of it.

    PYTHONPATH=OLD/src python tests/frozen.py make frozen/old
    PYTHONPATH=src python tests/frozen.py make frozen/new digits isic service
    python tests/frozen.py compare frozen/old frozen/new      # exit status 1 if anything differs

`make` uses only the command line, public names and files, so that it works for versions with other
modules. A training on one machine is the same for the same seed and number of threads. Parts:

- `reproduce`: `results.csv` of the three experiments on the digits (minutes);
- `digits`, `isic`: a small training, its certificate, its measurements, and the decisions of the
  run, of its exported predictions (with a policy of their own) and of its bundle;
- `service`: the answers to 200 images; needs `digits`;
- `tables`: both guarantees on five tables of published predictions: certificates, measurements,
  decisions on held-out images, and those of `Deferral.decide` on one table.

`isic` and `tables` need the folder SHARED of real images and predictions, and `isic` the file
WEIGHTS of ImageNet weights (environment variables).
"""

import csv
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

os.environ["OMP_NUM_THREADS"] = "1"
SHARED = Path(os.environ.get("SHARED", "../shared/data"))
WEIGHTS = os.environ.get("WEIGHTS", "weights/tf_efficientnet_lite0.safetensors")
ISIC = SHARED / "isic2019-half"
COMMANDS = {
    "reproduce": "reproduce --out {out}/reproduce --cache {out}/cache --jobs 2",
    "train": "train {data} {train} --seed 3 --device cpu --cache {out}/cache --out {at}/run",
    "calibrate": "calibrate {at}/run {data} {targets} --cache {out}/cache",
    "evaluate": "evaluate {at}/run {data} {ood} --cache {out}/cache --out {at}/evaluation",
    "calibrate table": "calibrate {at}/table.npz {targets} --out {at}/policy",
    "evaluate table": "evaluate {at}/table.npz --policy {at}/policy {readers}"
    " --out {at}/table_evaluation",
    "predict table": "predict {at}/policy {at}/table.npz --out {at}/table.jsonl",
    "predict held-out": "predict {at}/policy {at}/held_out.npz --out {at}/held_out.jsonl",
    "export": "export {at}/run --out {at}/bundle",
    "predict run": "predict {at}/run {images} --out {at}/run.jsonl",
    "predict bundle": "predict {at}/bundle {images} --out {at}/bundle.jsonl",
    "serve": "serve {at}/bundle --port {port} --store {out}/cases.sqlite",
}
SETTINGS = {
    "digits": {
        "data": "digits",
        "train": "--backbone vgg16_mini --no-pretrained --epochs 6 --batch-size 64",
        "targets": "--max-error 0.05 --max-ood-false-alarms 0.05",
        "ood": "",
    },
    "isic": {
        "data": f"isic2019:{ISIC}",
        "train": f"--image-size 64 --epochs 1 --weights {WEIGHTS}",
        "targets": "--max-error 0.1 --class-max-miss MEL=0.2 --max-ood-false-alarms 0.05",
        "ood": f"--ood colon={SHARED / 'ood' / 'lc25000_colon'}",
    },
}
TABLES = {  # options of `calibrate`
    "imagenet/resnet50_pytorch": "--max-error 0.1",
    "imagenet/nasnetlarge_keras": "--max-error 0.2 --max-silent-error 0.1",
    "logits/cifar100_vgg19_bn": "--max-error 0.15 --rule balanced",
    "logits/pathmnist_resnet50": "--max-error 0.05 --class-max-miss 7=0.2 --ood-detector energy",
    "cifar10h/resnet-110": "--max-error 0.02",
}
SECOND_OPINIONS = {"cifar10h/resnet-110": "cifar10h/preresnet-110"}
GUARANTEES, JOBS = ("confident", "average"), 2
FRAME = "logits/pathmnist_resnet50"  # the table of `Deferral.decide`
TABLE_ROWS, SHARES = 1500, {"tune": 0.15, "calibrate": 0.55, "test": 0.3}
CLASSES = 50  # of ImageNet; the others are one class
CERTIFICATE = {
    "accept_threshold", "ood_threshold", "cases", "tuning_cases", "accepted", "wrong",
    "thresholds_tried", "ood_rank", "smallest_certifiable", "accepted_on_average",
}  # fmt: skip
KEYS = {  # what identifies a row, by file
    "results.csv": ["experiment", "trial", "model", "dataset", "detector", "metric"],
    "measurements.csv": ["dataset", "detector", "metric"],
    "subgroups.csv": ["name", "value"],
    "certificate.json": ["field"],
    "answers.json": ["name"],
    "decisions.csv": ["id"],
    "table.jsonl": ["id"],
    "held_out.jsonl": ["id"],
    "frame.csv": ["id"],
    "run.jsonl": ["path"],
    "bundle.jsonl": ["path"],
}
CHANGING = {"id", "received", "model_fingerprint", "policy_fingerprint"}  # in an answer
IMAGES, FILES_IN_REQUEST = 200, 20
TOLERANCE = 1e-6
MAX_SHOWN = 10  # differences of one column


def call(name: str, **values: Any) -> None:
    """Run a command of the package."""
    print(name, values.get("at", ""), flush=True)
    command = [sys.executable, "-m", "misgiving", *COMMANDS[name].format_map(values).split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:400]}\n{done.stderr}")


def make_model(part: str, out: Path) -> None:
    """Train, calibrate and measure, and decide with the run, its predictions and its bundle."""
    at = out / part
    at.mkdir(parents=True, exist_ok=True)
    values = {"out": out, "at": at, "readers": "", **SETTINGS[part]}
    for name in ("train", "calibrate", "evaluate"):
        call(name, **values)
    with (at / "run" / "split.csv").open() as file:
        sets = {row["id"]: row["set"] for row in csv.DictReader(file)}
    write_table(at, SETTINGS[part]["data"], sets)
    for name in ("calibrate table", "evaluate table", "predict table", "export"):
        call(name, **values)
    names = [name for chosen in ("test", "calibrate") for name in sets if sets[name] == chosen]
    files = image_files(part, at, names[:IMAGES])
    values["images"] = " ".join(map(str, files))
    call("predict run", **values)
    call("predict bundle", **values)
    for policy, folder in (("run/policy", "run_policy"), ("policy", "table_policy")):
        write_certificate(at / policy, at / folder)


def write_table(at: Path, data: str, sets: dict[str, str]) -> None:
    """Write the exported predictions as another program would, with the sets of the run."""
    columns = exported(at, data)
    used = [sets.get(name) in ("tune", "calibrate", "test") for name in columns["id"].tolist()]
    columns = {key: values if key == "classes" else values[used] for key, values in columns.items()}
    sizes = Counter(columns["group"].tolist())
    groups = [group if sizes[group] > 1 else "" for group in columns["group"].tolist()]
    columns |= {"set": np.array([sets[name] for name in columns["id"].tolist()])}
    np.savez_compressed(at / "table.npz", **columns | {"group": np.array(groups)})


EXPORT = "import sys, misgiving; misgiving.predict(*sys.argv[1:3]).write(sys.argv[3])"


def exported(at: Path, data: str) -> dict[str, np.ndarray]:
    """Predictions of a run for its images."""
    file = at / "all.npz"
    subprocess.run([sys.executable, "-c", EXPORT, str(at / "run"), data, str(file)], check=True)
    with np.load(file, allow_pickle=False) as arrays:
        names = {"logits", "features", "label", "predicted_loss", "id", "group", "classes"}
        columns = {name: arrays[name] for name in names & set(arrays)}
    texts = {name: columns[name] for name in columns if columns[name].dtype.kind == "S"}
    columns |= {name: np.char.decode(values, "utf-8") for name, values in texts.items()}
    return {"group": columns["id"]} | columns


def image_files(part: str, at: Path, names: list[str]) -> list[Path]:
    """Files of images; digits are written as PNG."""
    if part == "isic":
        return [ISIC / "ISIC_2019_Training_Input" / f"{name}.jpg" for name in names]
    from PIL import Image
    from sklearn.datasets import load_digits

    (at / "images").mkdir(exist_ok=True)
    ink = np.rint(255 - load_digits().images * (255 / 16)).astype(np.uint8)
    files = [at / "images" / f"{name}.png" for name in names]
    for name, file in zip(names, files, strict=True):
        Image.fromarray(ink[int(name.removeprefix("digit-"))]).convert("RGB").save(file)
    return files


def write_certificate(policy: Path, folder: Path) -> None:
    """Write the numbers of a certificate, wherever in its file they are; the outermost counts."""
    fields: dict[str, Any] = {}
    parts = [json.loads((policy / "policy.json").read_text())]
    for part in parts:  # level by level
        for name, value in part.items():
            is_count = not (name == "cases" and isinstance(value, dict))  # else their identities
            if name in CERTIFICATE and is_count:
                fields.setdefault(name, value)
            elif name not in CERTIFICATE and isinstance(value, dict):
                parts.append(value)
    folder.mkdir(exist_ok=True)
    rows = [{"field": name, "value": json.dumps(fields[name])} for name in sorted(fields)]
    (folder / "certificate.json").write_text(json.dumps(rows))


DECIDE = """
import sys, misgiving
deferral, held_out = misgiving.Deferral.load(sys.argv[1]), misgiving.Predictions.read(sys.argv[2])
deferral.decide(held_out).to_frame().to_csv(sys.argv[3], index=False)
"""


def make_tables(out: Path) -> None:
    """Certify, measure and decide with published predictions, under both guarantees."""
    with ThreadPoolExecutor(JOBS) as jobs:
        list(jobs.map(partial(make_table, out), *zip(*product(TABLES, GUARANTEES), strict=True)))


def make_table(out: Path, name: str, guarantee: str) -> None:
    """Certify, measure and decide with one table under one guarantee."""
    at = out / "tables" / name / guarantee
    at.mkdir(parents=True, exist_ok=True)
    columns = published(name)
    np.savez_compressed(at / "table.npz", **columns)
    test = columns["set"] == "test"
    held_out = {key: values[test] for key, values in columns.items()}
    np.savez_compressed(at / "held_out.npz", **held_out)
    readers = "--readers" if "reader_person" in columns else ""
    targets = f"{TABLES[name]} --guarantee {guarantee}"
    for command in ("calibrate table", "evaluate table", "predict held-out"):
        call(command, at=at, targets=targets, readers=readers)
    write_certificate(at / "policy", at / "table_policy")
    if name == FRAME:
        files = [str(at / file) for file in ("policy", "held_out.npz", "frame.csv")]
        subprocess.run([sys.executable, "-c", DECIDE, *files], check=True)


def published(name: str) -> dict[str, np.ndarray]:
    """Some rows of published predictions, with sets; of ImageNet, without those that calibrate."""
    random, columns = np.random.default_rng(0), outputs(name)
    rows = np.sort(random.choice(len(columns["label"]), TABLE_ROWS, replace=False))
    groups = rows // 2
    places = random.permutation(groups.max() + 1) / len(columns["label"]) * 2
    sets = np.array([*SHARES])[np.searchsorted(np.cumsum([*SHARES.values()]), places[groups])]
    if other := SECOND_OPINIONS.get(name):
        columns["probabilities@other"] = outputs(other)["probabilities"]
    columns = {key: values[rows] for key, values in columns.items()}
    columns |= {"id": rows, "set": sets, "site": groups % 3}
    if "logits" in columns:
        columns["group"] = groups
    if name.startswith("imagenet"):
        columns["set"] = np.where(sets == "test", sets, "")
    if "human_counts" in columns:
        votes = np.cumsum(columns.pop("human_counts"), axis=1)
        drawn = random.random(TABLE_ROWS) * votes[:, -1]
        columns["reader_person"] = np.argmax(votes > drawn[:, None], axis=1)
    return columns


def outputs(name: str) -> dict[str, np.ndarray]:
    """Arrays of published predictions; of ImageNet, those for images of the first classes."""
    with np.load(SHARED / "predictions" / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file}
    if "top5_classes" not in arrays:
        return arrays
    chosen = {key: values[arrays["labels"] < CLASSES] for key, values in arrays.items()}
    probabilities = np.zeros((len(chosen["labels"]), CLASSES + 1))
    places = np.arange(len(probabilities))[:, None], np.minimum(chosen["top5_classes"], CLASSES)
    np.add.at(probabilities, places, chosen["top5_probabilities"])
    rest = np.maximum(1 - probabilities.sum(axis=1, keepdims=True), 0)
    return {"label": chosen["labels"], "probabilities": probabilities + rest / (CLASSES + 1)}


def make_answers(out: Path) -> None:
    """Send images to a service that has the bundle of the digits."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (out / "cases.sqlite").unlink(missing_ok=True)
    arguments = COMMANDS["serve"].format(out=out, at=out / "digits", port=port).split()
    files = sorted((out / "digits" / "images").iterdir())
    cases = []
    with subprocess.Popen([sys.executable, "-m", "misgiving", *arguments]) as service:
        try:
            transport = httpx.HTTPTransport(retries=9)  # waits longer and longer for the start
            client = httpx.Client(transport=transport, timeout=120)
            for start in range(0, len(files), FILES_IN_REQUEST):
                chosen = files[start : start + FILES_IN_REQUEST]
                images = [("files", (file.name, file.read_bytes())) for file in chosen]
                reply = client.post(f"http://127.0.0.1:{port}/decisions", files=images)
                cases += [result["case"] for result in reply.raise_for_status().json()["results"]]
        finally:
            service.terminate()
    answers = [{key: case[key] for key in case.keys() - CHANGING} for case in cases]
    (out / "answers.json").write_text(json.dumps(answers))


def read(file: Path) -> pd.DataFrame:
    """A table of texts, with what identifies a row as its index."""
    if file.suffix == ".csv":
        table = pd.read_csv(file, keep_default_na=False, dtype=str)
    else:
        text = file.read_text()
        rows = map(json.loads, text.splitlines()) if file.suffix == ".jsonl" else json.loads(text)
        table = pd.json_normalize(list(rows)).fillna("").astype(str)
    if "path" in table:
        table["path"] = table["path"].str.rpartition("/")[2]
    keys = KEYS[file.name]
    return table.set_index(table[keys].agg(" ".join, axis=1)).drop(columns=keys)


def differences(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """Differences with their places."""
    yield "rows are missing", sorted(old.index.difference(new.index))
    yield "rows are new", sorted(new.index.difference(old.index))
    yield "columns are missing", sorted(old.columns.difference(new.columns))
    yield "columns are new", sorted(new.columns.difference(old.columns))
    rows = old.index.intersection(new.index, sort=False)
    for column in old.columns.intersection(new.columns, sort=False):
        before, after = old.loc[rows, column], new.loc[rows, column]
        numbers = (pd.to_numeric(values, errors="coerce") for values in (before, after))
        same = (before == after) | np.isclose(*numbers, rtol=TOLERANCE, atol=TOLERANCE)
        yield column, [f"{row}: {before[row]} -> {after[row]}" for row in rows[~same]]


def compare(old: Path, new: Path) -> bool:
    """Print every difference of what both have; true if there is none."""
    equal = True
    for file in sorted(path for name in KEYS for path in old.rglob(name)):
        name = file.relative_to(old)
        if "units" in name.parts or not (new / name).exists():
            continue
        changes = [change for change in differences(read(file), read(new / name)) if change[1]]
        print(f"{name}: {'differs' if changes else 'equal'}")
        for what, places in changes:
            print(f"  {what}: {len(places)}", *places[:MAX_SHOWN], sep="\n    ")
        equal &= not changes
    return equal


def main() -> None:
    """Make or compare."""
    command, folder, *rest = sys.argv[1:]
    if command == "compare":
        sys.exit(not compare(Path(folder), Path(*rest)))
    makers: dict[str, Callable[[Path], None]] = {
        "reproduce": lambda out: call("reproduce", out=out),
        "service": make_answers,
        "tables": make_tables,
    }
    for part in rest or ("reproduce", "digits", "isic", "service", "tables"):
        makers.get(part, partial(make_model, part))(Path(folder).absolute())


if __name__ == "__main__":
    main()
