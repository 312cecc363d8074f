"""Freeze the outputs of the package, and compare those of two versions of it.

    PYTHONPATH=OLD/src python tests/frozen.py make frozen/old
    PYTHONPATH=src python tests/frozen.py make frozen/new --parts digits,isic,service
    python tests/frozen.py compare frozen/old frozen/new      # exit status 1 if anything differs

`make` uses only the command line and public files, so that it works for versions with other
modules. A training on one machine is the same for the same seed. Parts:

- `reproduce`: `results.csv` of the three experiments on the digits (minutes);
- `digits`, `isic`: a small training, its certificate, its measurements, and the decisions of the
  run, of its exported predictions (with a policy of their own) and of its bundle;
- `service`: the answers to 200 images; needs `digits`.

`isic` needs `../shared/data` and ImageNet weights, which `WEIGHTS` may name.
"""

import argparse
import csv
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SHARED = Path(os.environ.get("SHARED", "/work/shared/data"))
WEIGHTS = os.environ.get("WEIGHTS", "/work/frozen/weights/tf_efficientnet_lite0.safetensors")
ISIC = SHARED / "isic2019-half"
TRAIN = {
    "digits": "--model proposed --backbone vgg16_mini --no-pretrained --epochs 6 --batch-size 64",
    "isic": f"--model proposed --image-size 64 --epochs 1 --weights {WEIGHTS}",
}
DATA = {"digits": "digits", "isic": f"isic2019:{ISIC}"}
TARGETS = {
    "digits": "--max-error 0.05 --max-ood-false-alarms 0.05",
    "isic": "--max-error 0.1 --class-max-miss MEL=0.2 --max-ood-false-alarms 0.05",
}
OOD = {"digits": "", "isic": f"--ood colon={SHARED / 'ood' / 'lc25000_colon'}"}
# Spellings of each command, newest first; the next is tried where one is wrong usage.
COMMANDS = {
    "reproduce": ["reproduce --out {out}/reproduce --cache {out}/cache --jobs 2"],
    "train": ["train {data} {train} --seed 3 --device cpu --cache {out}/cache --out {at}/run"],
    "calibrate": ["calibrate {at}/run {data} {targets} --cache {out}/cache"],
    "evaluate": ["evaluate {at}/run {data} {ood} --cache {out}/cache --out {at}/evaluation"],
    "calibrate table": ["calibrate {at}/table.npz {targets} --out {at}/policy"],
    "evaluate table": ["evaluate {at}/table.npz --policy {at}/policy --out {at}/table_evaluation"],
    "predict table": ["predict {at}/policy {at}/table.npz --out {at}/table.jsonl"],
    "export": ["export {at}/run --out {at}/bundle"],
    "predict run": ["predict {at}/run {images} --out {at}/run.jsonl"],
    "predict bundle": ["predict {at}/bundle {images} --out {at}/bundle.jsonl"],
    "serve": ["serve {at}/bundle --port {port} --store {out}/cases.sqlite"],
}
CERTIFICATE = {
    "accept_threshold", "ood_threshold", "cases", "tuning_cases", "accepted", "wrong",
    "thresholds_tried", "ood_rank", "class_outcomes", "smallest_certifiable",
}  # fmt: skip
KEYS = {  # what names a row, by file
    "results.csv": ["experiment", "trial", "model", "dataset", "detector", "metric"],
    "measurements.csv": ["dataset", "detector", "metric"],
    "subgroups.csv": ["name", "value"],
    "certificate.json": ["field"],
    "answers.json": ["name"],
    "decisions.csv": ["id"],
}
PATHS = ["path"]  # of JSON lines
CHANGING = {"id", "received", "model_fingerprint", "policy_fingerprint", "index"}  # of an answer
IMAGES, FILES_IN_REQUEST = 200, 20
TOLERANCE = 1e-6
SHOWN = 10  # differences of one column


def arguments(name: str, **values: Any) -> Iterator[list[str]]:
    """Command lines of each spelling; the values of the parts are filled in."""
    for spelling in COMMANDS[name]:
        filled = spelling.format_map(values).split()
        yield [sys.executable, "-m", "misgiving", *filled]


def call(name: str, **values: Any) -> None:
    print(name, values.get("at", ""), flush=True)
    for command in arguments(name, **values):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 2:  # 2: wrong usage
            break
    if done.returncode:
        raise SystemExit(f"{' '.join(command)[:400]}\n{done.stderr}")


def make_model(part: str, out: Path) -> None:
    """Train, calibrate and measure, and decide with the run, its predictions and its bundle."""
    at = out / part
    at.mkdir(parents=True, exist_ok=True)
    values = {"out": out, "at": at, "data": DATA[part], "train": TRAIN[part], "ood": OOD[part]}
    values["targets"] = TARGETS[part]
    if not (at / "run").exists():
        call("train", **values)
    call("calibrate", **values)
    call("evaluate", **values)
    write_table(at)
    for name in ("calibrate table", "evaluate table", "predict table", "export"):
        call(name, **values)
    values["images"] = " ".join(map(str, images_of(part, at)))
    call("predict run", **values)
    call("predict bundle", **values)
    for policy, folder in (("run/policy", "run_policy"), ("policy", "table_policy")):
        (at / folder).mkdir(exist_ok=True)
        numbers = certificate(json.loads((at / policy / "policy.json").read_text()))
        (at / folder / "certificate.json").write_text(json.dumps(numbers))


def write_table(at: Path) -> None:
    """Write the exported predictions as an external program would, with the sets of the run."""
    with (at / "run" / "split.csv").open() as file:
        sets = {row["id"]: row["set"] for row in csv.DictReader(file)}
    columns = exported(at / "evaluation")
    ids = [str(name) for name in columns["id"]]
    sizes = Counter(columns["group"].tolist())
    groups = [group if sizes[group] > 1 else "" for group in columns["group"].tolist()]
    columns |= {"set": np.array([sets[name] for name in ids]), "group": np.array(groups)}
    columns["label"] = np.array([columns["classes"][label] for label in columns["label"]])
    np.savez_compressed(at / "table.npz", **columns)


def exported(folder: Path) -> dict[str, np.ndarray]:
    """The predictions that `evaluate` writes."""
    if (file := folder / "predictions.safetensors").exists():
        from safetensors import safe_open

        with safe_open(file, "np") as arrays:
            texts = {name: json.loads(text) for name, text in arrays.metadata().items()}
            names = {"logits": "logits", "features": "features", "labels": "label"}
            names["predicted_losses"] = "predicted_loss"
            columns = {new: arrays.get_tensor(old) for old, new in names.items()}
        texts = {"id": texts["ids"], "group": texts["groups"], "classes": texts["classes"]}
        return columns | {name: np.array(values) for name, values in texts.items()}
    with np.load(folder / "predictions.npz", allow_pickle=False) as arrays:
        names = {"logits", "features", "label", "predicted_loss", "id", "group", "classes"}
        columns = {name: arrays[name] for name in names & set(arrays)}
    texts = {name for name, values in columns.items() if values.dtype.kind == "S"}
    columns |= {name: np.char.decode(columns[name], "utf-8") for name in texts}
    classes = columns["classes"].tolist()
    columns["label"] = np.array([classes.index(name) for name in columns["label"].tolist()])
    return {"group": columns["id"]} | columns


def images_of(part: str, at: Path) -> list[Path]:
    """Files of images of the test set, and then of the calibration set."""
    with (at / "run" / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [row["id"] for wanted in ("test", "calibrate") for row in rows if row["set"] == wanted]
    if part == "isic":
        return [ISIC / "ISIC_2019_Training_Input" / f"{name}.jpg" for name in names[:IMAGES]]
    from PIL import Image
    from sklearn.datasets import load_digits

    (at / "images").mkdir(exist_ok=True)
    files = [at / "images" / f"{name}.png" for name in names[:IMAGES]]
    ink = np.rint(255 - load_digits().images * (255 / 16)).astype(np.uint8)
    for name, file in zip(names, files, strict=False):
        Image.fromarray(ink[int(name.removeprefix("digit-"))]).convert("RGB").save(file)
    return files


def certificate(policy: Any) -> list[dict[str, Any]]:
    """The numbers of a certificate, wherever in its file they are."""
    rows = []
    for name, value in policy.items() if isinstance(policy, dict) else ():
        if name in CERTIFICATE and not isinstance(value, list):
            rows.append({"field": name, "value": json.dumps(value)})
        else:
            rows += certificate(value)
    return rows


def make_answers(out: Path) -> None:
    """Ask a service that has the bundle of the digits."""
    import httpx

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (out / "cases.sqlite").unlink(missing_ok=True)
    (command,) = arguments("serve", out=out, at=out / "digits", port=port)
    files = sorted((out / "digits" / "images").iterdir())
    answers = []
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as service:
        try:
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
            wait_for(client)
            for start in range(0, len(files), FILES_IN_REQUEST):
                chosen = files[start : start + FILES_IN_REQUEST]
                images = [("files", (file.name, file.read_bytes())) for file in chosen]
                reply = client.post("/decisions", files=images).raise_for_status()
                answers += [result["case"] for result in reply.json()["results"]]
        finally:
            service.terminate()
    kept = [{key: case[key] for key in case.keys() - CHANGING} for case in answers]
    (out / "answers.json").write_text(json.dumps(kept))


def wait_for(client: Any) -> None:
    """Wait until the service answers."""
    import httpx

    for _ in range(300):
        try:
            client.get("/health")
        except httpx.TransportError:
            time.sleep(0.5)
        else:
            return
    raise SystemExit("the service does not start")


def read(file: Path) -> pd.DataFrame:
    """A table, with what names a row as its index."""
    if file.suffix == ".csv":
        table = pd.read_csv(file, keep_default_na=False, dtype=str)
    elif file.suffix == ".jsonl":
        table = pd.json_normalize(list(map(json.loads, file.read_text().splitlines())))
    else:
        table = pd.json_normalize(json.loads(file.read_text()))
    keys = KEYS.get(file.name, ["id"] if "id" in table else PATHS)
    for path in {"path"} & set(table):
        table[path] = [Path(name).name for name in table[path]]
    return table.set_index(table[keys].astype(str).agg(" ".join, axis=1)).drop(columns=keys)


def equal(old: Any, new: Any) -> bool:
    try:
        old, new = float(old), float(new)
    except (TypeError, ValueError):
        return bool(old == new) or (missing(old) and missing(new))
    return old == new or abs(old - new) <= TOLERANCE * max(1, abs(old)) or (
        math.isnan(old) and math.isnan(new)
    )  # fmt: skip


def missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def differences(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[tuple[str, list[str]]]:
    """What differs, and where."""
    yield "rows are missing", sorted(old.index.difference(new.index))
    yield "rows are new", sorted(new.index.difference(old.index))
    yield "columns are missing", sorted(old.columns.difference(new.columns))
    yield "columns are new", sorted(new.columns.difference(old.columns))
    rows = old.index.intersection(new.index, sort=False)
    for column in old.columns.intersection(new.columns, sort=False):
        pairs = zip(rows, old.loc[rows, column], new.loc[rows, column], strict=True)
        yield column, [f"{row}: {a} -> {b}" for row, a, b in pairs if not equal(a, b)]


def compare(old: Path, new: Path) -> bool:
    """Print every difference; true if there is none."""
    patterns = [*KEYS, "*.jsonl"]
    files = sorted({path for pattern in patterns for path in old.rglob(pattern)})
    names = [file.relative_to(old) for file in files if "units" not in file.parts]
    same = True
    for name in names:
        if not (new / name).exists():
            print(f"{name}: not made")
            continue
        found = [(what, at) for what, at in differences(read(old / name), read(new / name)) if at]
        print(f"{name}: {'differs' if found else 'equal'}")
        for what, places in found:
            print(f"  {what}: {len(places)}")
            print(*(f"    {place}" for place in places[:SHOWN]), sep="\n")
        same &= not found
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--parts", default="reproduce,digits,isic,service")
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    options = parser.parse_args()
    if options.command == "compare":
        sys.exit(not compare(options.old, options.new))
    folder = options.folder.absolute()
    for part in options.parts.split(","):
        if part == "reproduce":
            call("reproduce", out=folder)
        elif part == "service":
            make_answers(folder)
        else:
            make_model(part, folder)


if __name__ == "__main__":
    main()
