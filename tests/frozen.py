"""Freeze the outputs of the package, and compare those of two versions of it.

    PYTHONPATH=OLD/src python tests/frozen.py make frozen/old
    PYTHONPATH=src python tests/frozen.py make frozen/new digits isic service
    python tests/frozen.py compare frozen/old frozen/new      # exit status 1 if anything differs

`make` uses only the command line, public names and files, so that it works for versions with other
modules. A training on one machine is the same for the same seed and number of threads. Parts:

- `reproduce`: `results.csv` of the three experiments on the digits (minutes);
- `digits`, `isic`: a small training, its certificate, its measurements, and the decisions of the
  run, of its predictions (with a policy of their own) and of its bundle;
- `service`: the answers to 200 images; needs `digits`;
- `tables`: both guarantees on five tables of published predictions: certificates, measurements,
  decisions on held-out images, and those of `Deferral.decide` on one table.

`isic` and `tables` need the folder SHARED of real images and predictions, and `isic` the file
WEIGHTS of ImageNet weights (environment variables).
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
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
    "sample": "data sample {at}/images",
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
    "logits/sst2_gpt2": "--max-error 0.3",
    "logits/cifar100_resnet-20": "--max-error 0.2 --max-silent-error 0.1",
    "logits/cifar100_vgg19_bn": "--max-error 0.15 --rule balanced",
    "logits/pathmnist_resnet50": "--max-error 0.05 --class-max-miss 7=0.2 --ood-detector energy",
    "cifar10h/resnet-110": "--max-error 0.02",
}
SECOND_OPINIONS = {"cifar10h/resnet-110": "cifar10h/preresnet-110"}
GUARANTEES, JOBS = ("confident", "average"), 2
FRAME = "logits/pathmnist_resnet50"  # the table of `Deferral.decide`
UNSPLIT = "logits/sst2_gpt2"  # whose sets are drawn by the package
TABLE_ROWS, SHARES = 1500, {"tune": 0.15, "calibrate": 0.55, "test": 0.3}
KEYS = {  # what identifies a row, by file
    "results.csv": ["experiment", "trial", "model", "dataset", "detector", "metric"],
    "measurements.csv": ["dataset", "detector", "metric"],
    "subgroups.csv": ["name", "value"],
    "policy.json": ["field", "place"],  # of the certificate
    "answers.jsonl": ["name"],
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
MAX_SHOWN = 40  # differences of one file


def call(name: str, **values: Any) -> None:
    """Run a command of the package."""
    print(name, values.get("at", ""), flush=True)
    command = [sys.executable, "-m", "misgiving", *COMMANDS[name].format_map(values).split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:400]}\n{done.stderr}")


def run_python(code: str, *arguments: object) -> None:
    """Run a line that calls the library."""
    script = f"import sys, misgiving; a, b, c = sys.argv[1:]; {code}"
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)


def make_model(part: str, out: Path) -> None:
    """Train, calibrate and measure, and decide with the run, its predictions and its bundle."""
    at, folder = out / part, ISIC / "ISIC_2019_Training_Input"
    at.mkdir(parents=True, exist_ok=True)
    values = {"out": out, "at": at, "readers": "", **SETTINGS[part]}
    if part == "digits":
        call("sample", **values)
        folder = at / "images"
    for name in ("train", "calibrate", "evaluate"):
        call(name, **values)
    data = SETTINGS[part]["data"]
    run_python("misgiving.predict(a, b).write(c)", at / "run", data, at / "table.npz")
    values["images"] = " ".join(map(str, images_in(folder)))
    last = "calibrate table", "evaluate table", "predict table", "export"
    for name in (*last, "predict run", "predict bundle"):
        call(name, **values)


def images_in(folder: Path) -> list[Path]:
    """Some of the images, spread over the folder."""
    files = sorted([*folder.rglob("*.png"), *folder.rglob("*.jpg")])
    return files[:: len(files) // IMAGES][:IMAGES]


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
    if name == FRAME:
        decide = "misgiving.Deferral.load(a).decide(misgiving.Predictions.read(b))"
        files = at / "policy", at / "held_out.npz", at / "frame.csv"
        run_python(f"{decide}.to_frame().to_csv(c, index=False)", *files)


def published(name: str) -> dict[str, np.ndarray]:
    """Some rows of published predictions, with sets; of one table, without those that calibrate."""
    random, columns = np.random.default_rng(0), outputs(name)
    count = len(columns["label"])
    rows = np.sort(random.choice(count, min(count, TABLE_ROWS), replace=False))
    groups = rows // 2
    places = random.permutation(groups.max() + 1) / (groups.max() + 1)
    sets = np.array([*SHARES])[np.searchsorted(np.cumsum([*SHARES.values()]), places[groups])]
    if other := SECOND_OPINIONS.get(name):
        columns["probabilities@other"] = outputs(other)["probabilities"]
    columns = {key: values[rows] for key, values in columns.items()}
    columns |= {"id": rows, "set": sets, "site": groups % 3}
    if "logits" in columns:
        columns["group"] = groups
    if name == UNSPLIT:
        columns["set"] = np.where(sets == "test", sets, "")
    if "human_counts" in columns:
        votes = np.cumsum(columns.pop("human_counts"), axis=1)
        drawn = random.random(len(rows)) * votes[:, -1]
        columns["reader_person"] = np.argmax(votes > drawn[:, None], axis=1)
    return columns


def outputs(name: str) -> dict[str, np.ndarray]:
    """Arrays of published predictions."""
    with np.load(SHARED / "predictions" / f"{name}.npz") as file:
        return {key: file[key] for key in file}


def make_answers(out: Path) -> None:
    """Send images to a service that has the bundle of the digits."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (out / "cases.sqlite").unlink(missing_ok=True)
    arguments = COMMANDS["serve"].format(out=out, at=out / "digits", port=port).split()
    files, cases = images_in(out / "digits" / "images"), []
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
    (out / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)))


def read(file: Path) -> pd.Series:
    """The cells of a table as texts, by what identifies a row and by column."""
    text, keys = file.read_text(), KEYS[file.name]
    if file.suffix == ".csv":
        table = pd.read_csv(file, keep_default_na=False, dtype=str)
    elif file.suffix == ".jsonl":
        table = pd.json_normalize([json.loads(line) for line in text.splitlines()])
    else:
        numbers = pd.json_normalize(json.loads(text)["certificate"]).iloc[0].explode()
        table = numbers.rename_axis("field").reset_index(name="value")
        table["place"] = table.groupby("field").cumcount()
    if "path" in table:
        table["path"] = table["path"].str.rpartition("/")[2]
    return table.fillna("").astype(str).set_index(keys).rename_axis(columns="column").stack()


def differences(old: Path, new: Path) -> list[str]:
    """Every cell that differs between two files, or that only one of them has."""
    before, after = read(old).align(read(new), fill_value="missing")
    numbers = (pd.to_numeric(values, errors="coerce") for values in (before, after))
    same = (before == after) | np.isclose(*numbers, rtol=TOLERANCE, atol=TOLERANCE)
    return [
        f"{' '.join(place)}: {before[place]} -> {after[place]}" for place in before.index[~same]
    ]


def compare(old: Path, new: Path) -> bool:
    """Print every difference of what both have; true if there is none."""
    equal = True
    for file in sorted(path for name in KEYS for path in old.rglob(name)):
        name = file.relative_to(old)
        if {"units", "bundle"} & {*name.parts} or not (new / name).exists():
            continue
        changes = differences(file, new / name)
        print(f"{name}: {f'{len(changes)} differ' if changes else 'equal'}")
        print(*(f"  {change}\n" for change in changes[:MAX_SHOWN]), sep="", end="")
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
