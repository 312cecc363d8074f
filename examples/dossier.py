"""Fill the template of a dossier for approval with the numbers that files already have.

python dossier.py photos.bundle runs/photos --plan plan.txt --audit audit.json > dossier.md
"""

import csv
import hashlib
import json
from argparse import ArgumentParser
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from misgiving.bundle.bundle import Bundle
from misgiving.deferral.bounds import two_sided_interval
from misgiving.deferral.sentences import three_digits

TEMPLATE = Path(__file__).with_name("dossier.md.jinja")


def percent(share, *, up=False):
    """Format a share, rounded up where it is a bound; an empty cell of a table is undefined."""
    return "undefined" if share in ("", None) else three_digits(float(share), up=up)


def read_json(path):
    """Read a file of JSON; None without one."""
    return path and json.loads(path.read_text(encoding="utf-8"))


def read_table(path):
    """Read the rows of a CSV file by column."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def measured_policy(path):
    """Read what was measured of the policy, with the errors among the accepted and an interval."""
    rows = [row for row in read_table(path) if row["dataset"] == "policy_test"]
    values = {row["metric"]: float(row["value"]) for row in rows if row["detector"] == "policy"}
    if not values:
        raise SystemExit(f"{path} has no measurements of a policy: calibrate, and evaluate again")
    accepted = round(values["coverage"] * values["images"])
    wrong = round(values["error_among_accepted"] * accepted) if accepted else 0
    interval = two_sided_interval(wrong, accepted, level=0.05)
    return values | {"accepted": accepted, "wrong": wrong} | interval._asdict()


def fill(bundle, run, plan=None, audit=None):
    """Fill the template from the files of a bundle, its run, a plan and a service."""
    loaded, record = Bundle.load(bundle), run / "calibrations.json"
    policies = bundle / "policy.json", run / "policy" / "policy.json"
    if loaded.policy is None or len({str(read_json(each)["certificate"]) for each in policies}) > 1:
        raise SystemExit(f"{bundle} has another policy than {run}, or none: export {run} again")
    tables = [run / "evaluation" / f"{name}.csv" for name in ("measurements", "subgroups")]
    files = [bundle / "card.json", policies[0], record, *tables, plan, audit]
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: str(value).replace("|", "\\|"),  # in tables
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=bundle.name,
        card=loaded.card,
        policy=loaded.policy,
        certificate=loaded.policy.certificate,
        measured=measured_policy(tables[0]),
        subgroups=read_table(tables[1]),
        record=read_json(record),
        plan=plan and plan.read_text(encoding="utf-8").rstrip(),
        audit=read_json(audit),
        files={path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path},
        percent=percent,
    )


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("run", type=Path, help="of the bundle, calibrated and evaluated")
    parser.add_argument("--plan", type=Path, help="what `misgiving plan` printed")
    parser.add_argument("--audit", type=Path, help="what GET /audit answered")
    print(fill(**vars(parser.parse_args())))
