"""Turn the decisions of `misgiving predict ... --out decisions.csv` into tasks of Label Studio.

Usage: python label_studio_tasks.py decisions.csv https://host/images/
Needs `pip install label-studio-sdk`. Paste labels.xml under Settings, Labeling Interface, Code, and
import tasks.json. Images are at the given address, followed by their paths.
"""

import json
import sys
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from label_studio_sdk.label_interface import LabelInterface
from label_studio_sdk.label_interface.create import choices

table, address = sys.argv[1:]
decisions = pd.read_csv(table, dtype={"predicted_class": str}).dropna(subset="predicted_class")
prefix = "probability_"
classes = [name.removeprefix(prefix) for name in decisions if name.startswith(prefix)]
labels = LabelInterface.create({"image": "Image", "class": choices(classes)})
interface = LabelInterface(labels)

tasks = []
for row in decisions.sort_values("error_probability", ascending=False).to_dict("records"):
    choice = {
        "from_name": "class",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [row["predicted_class"]]},
    }
    prediction = {
        "model_version": "misgiving",
        "score": row["probability"],
        "result": [] if row["decision"] == "ood" else [choice],
    }
    task = {"data": {"image": address + quote(row["path"]), "reason": row["reason"]}}
    assert interface.validate_task(task)
    assert interface.validate_prediction(prediction)
    tasks.append({**task, "predictions": [prediction]})

Path("labels.xml").write_text(labels, encoding="utf-8")
Path("tasks.json").write_text(json.dumps(tasks, indent=1), encoding="utf-8")
print(f"{len(tasks)} tasks, likely errors first")
