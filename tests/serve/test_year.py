"""A year of a clinic in fast motion: in the end, the service says what its people really did."""

import hmac
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import replace

import pytest
from bundled import checkpoint, noisy_set, write_run
from clinic import CLASSES, DEVICE, Clinic
from PIL import Image
from standin import rows_of
from waiting import until

from misgiving.files import sha256_of

UPLOADS, KILLS, SHARE = 20_000, 20, 0.1
LENIENT = ("--max-error", 0.75, "--max-error-probability", 1)  # some images have wrong colours


def evidence(wrong, target):
    """E-value of the alarm after each answer, by one bet for each start and factor."""
    bets, values = [], [1.0]
    for answer, is_wrong in enumerate(wrong, 1):
        before, rest = (250 / (number + 500) for number in (answer - 1, answer))
        start = (before - rest + 0.5 * (answer == 1)) / 3
        bets += [[factor, start] for factor in (1.5, 2.0, 3.0)]
        for bet in bets:
            bet[1] *= (bet[0] if is_wrong else 1) / (1 + target * (bet[0] - 1))
        values.append(rest + sum(stake for _, stake in bets))
    return values


def rows(clinic, query):
    with closing(sqlite3.connect(clinic.store)) as database:
        return database.execute(query).fetchall()


class Year:
    """The truth about a clinic's service, by what its people know and by the secret draws."""

    def __init__(self, clinic):
        self.clinic, self.numbers, self.pixels = clinic, {}, {}

    def note_arrivals(self):
        """Numbers and pixels of the stored cases, also of those that are deleted later."""
        join = "FROM cases JOIN arrivals ON case_id = id"
        for id, number, pixels in rows(self.clinic, f"SELECT id, number, pixels {join}"):
            assert self.numbers.setdefault(id, number) == number
            self.pixels[id] = pixels

    def check(self, *policies):
        self.note_arrivals()
        left = {id: entry for id, entry in self.clinic.cases.items() if not entry.deleted}
        decisions = {(id, entry.case["decision"]) for id, entry in left.items()}
        assert {*rows(self.clinic, "SELECT id, decision FROM cases")} == decisions
        said = Counter(
            (id, word.reader, word.verdict, word.blind)
            for id, entry in left.items()
            for word in entry.words
        )
        given = rows(self.clinic, "SELECT case_id, reviewer, verdict, blind FROM reviews")
        assert Counter(given) == said
        files = {path.name for path in self.clinic.kept.glob("*/[!.]*")}  # a kill leaves locks
        assert files == {entry.case["sha256"] for entry in left.values()}
        self.check_found_wrong(left)
        for policy in policies:
            self.check_audit(policy)

    def check_found_wrong(self, left):
        expected = {id: wrong for id, entry in left.items() if (wrong := entry.found_wrong)}
        listed = {}
        for x in self.clinic.ask("Olga", "GET", "/found-wrong")["answers"]:
            read_as = sorted(name or "none" for name in x["read_as"])
            listed[x["id"]] = x["state"], read_as, sorted(x["contradicted_by"])
            assert len(x["told"]) == len(left[x["id"]].told)
        assert listed == expected
        table = rows_of(self.clinic.ask("Olga", "GET", "/found-wrong.csv"))
        assert {x["id"]: x["state"] for x in table} == {id: x[0] for id, x in expected.items()}
        metrics = self.clinic.ask("Olga", "GET", "/metrics").text
        counts = Counter(state for state, *_ in expected.values())
        for state in ("open", "contradicted", "withdrawn", "told"):
            assert f'misgiving_found_wrong{{state="{state}"}} {counts[state]}.0' in metrics
        print(f"{len(self.numbers)} cases, found wrong: {dict(counts)}")

    def drawn(self, policy):
        """The cases of a policy as they arrived, and whether they are audited."""
        query = f"SELECT secret FROM audits WHERE policy_fingerprint = '{policy}'"
        ((secret,),) = rows(self.clinic, query)
        counts, images = Counter(), set()
        for id in sorted(self.numbers, key=self.numbers.get):
            entry = self.clinic.cases[id]
            if entry.case["policy_fingerprint"] != policy:
                continue
            group, pixels = entry.case["group"], self.pixels[id]
            text = f"group {group}" if group else f"image {pixels}"
            digest = hmac.digest(secret.encode(), text.encode(), "sha256")
            is_unit = counts[group] < 20 if group else pixels not in images
            yield entry, is_unit and int.from_bytes(digest[:8]) < SHARE * 2**64
            counts[group] += 1
            images.add(pixels)

    def check_audit(self, policy):
        told = self.clinic.ask("Olga", "GET", "/audit", params={"policy": policy})
        drawn, units, audited = [*self.drawn(policy)], set(), []
        accepted = [(entry, is_audited) for entry, is_audited in drawn if entry.accepted]
        repeated = [entry.standing for entry, is_audited in accepted if not is_audited]
        for number, (entry, is_audited) in enumerate(accepted):
            unit = entry.case["group"] or number
            audited += [entry] * (is_audited and unit not in units)
            units |= {unit} if is_audited else set()
        standings, since = Counter(x.standing for x in audited), told["resumed_at"] or ""
        later = [x.standing == "wrong" for x in audited if x.case["received"] > since]
        values = evidence(later, told["target"])
        expected = {
            "audited": len(audited),
            "wrong": standings["wrong"],
            "unconfirmed": standings["unconfirmed"] + standings["ungradable"],
            "later": 0,
            "overdue": 0,
            "accepted": sum(entry.standing != "unconfirmed" for entry, _ in accepted),
            "repeated": len(repeated) - repeated.count(None),
            "repeated_wrong": repeated.count("wrong"),
            "large_groups": {DEVICE: sum(x.case["group"] == DEVICE for x, _ in drawn)},
            "e_value": pytest.approx(values[-1]),
            "alarm": max(values) >= 100,
            "share": SHARE,
        }
        assert {name: told[name] for name in expected} == expected
        sample = [entry for entry, is_audited in drawn if is_audited and not entry.deleted]
        closed = []
        for entry in sorted(sample, key=lambda entry: entry.case["id"]):
            if entry.standing == "unconfirmed":
                break
            closed.append((entry.case["id"], entry.standing, entry.label))
        table = rows_of(self.clinic.ask("Olga", "GET", "/audit.csv", params={"policy": policy}))
        assert [(x["id"], x["standing"], x["label"]) for x in table] == closed
        print(f"policy {policy[:12]}: {dict(standings)}, a sample of {len(closed)}")

    def recalibrate(self, old):
        """Serve a policy that is calibrated on the audit sample, and is given no share."""
        clinic, folder, hashes = self.clinic, self.clinic.folder, []
        table = clinic.ask("Olga", "GET", "/audit.csv").text
        (folder / "audit.csv").write_text(table, newline="")
        images = noisy_set(150, seed=0)
        for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            place = folder / "training" / CLASSES[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
            hashes.append(sha256_of((place / f"{number}.png").read_bytes()))
        made = checkpoint()
        known = replace(made, split=made.split._replace(hashes=tuple(hashes)))
        run = write_run(folder / "run", known)
        words = ("--from-cases", folder / "audit.csv", *LENIENT)
        more = ("--training-data", f"folder:{folder / 'training'}", "--device", "cpu")
        assert "spans an alarm" in clinic.command("calibrate", run, *words, *more)
        clinic.process.close()
        clinic.bundle, clinic.options = folder / "new", ()
        clinic.command("export", run, "--out", clinic.bundle)
        clinic.start()
        said = clinic.log.read_text().rpartition("serving on")[2]
        assert f"audit share {SHARE} ({SHARE} under the policy before)" in said
        ((count,),) = rows(clinic, "SELECT COUNT(*) FROM cases WHERE blind")
        assert f"policy {old[:12]}: {count} blind cases remain to be read" in said

    def delete_patients(self):
        """Delete five patients, most of them with cases that were found wrong."""
        clinic, patients, by_state = self.clinic, defaultdict(list), defaultdict(list)
        self.note_arrivals()
        unread = {id for (id,) in rows(clinic, "SELECT id FROM cases WHERE blind")}
        for entry in [*clinic.cases.values()]:
            patients[entry.case["group"]].append(entry)
        for patient, cases in patients.items():
            ids = {entry.case["id"] for entry in cases}
            if patient not in (None, DEVICE) and not ids & {*unread, *clinic.last.values()}:
                for entry in cases:
                    by_state[entry.found_wrong and entry.found_wrong[0]].append(patient)
        chosen = {clinic.chance.choice(by_state[state]) for state in sorted(by_state, key=str)}
        chosen |= {*clinic.chance.sample(by_state[None], 5)}
        for patient in [*chosen][:5]:
            self.delete(patient, patients[patient])

    def delete(self, patient, cases):
        states = [entry.found_wrong[0] for entry in cases if entry.found_wrong]
        untold = states.count("open") + states.count("contradicted")
        words = (self.clinic.store, "--group", patient, "--keep-images", self.clinic.kept)
        said = self.clinic.command("cases", "delete", *words)
        assert f"deleted: {len(cases)} case" in said
        assert (f"and {untold} accepted and found wrong" in said) == (untold > 0)
        for entry in cases:
            entry.deleted = True


@pytest.fixture
def clinic(tmp_path, exported):
    made = Clinic(tmp_path, exported[1], "--audit-share", SHARE)
    yield made
    made.over = True
    made.process.close()
    for client in made.clients.values():
        client.close()


@pytest.mark.soak
def test_the_service_says_what_people_did_in_a_year_with_twenty_kills(clinic):
    year, part, kills = Year(clinic), UPLOADS // 20, KILLS // 20
    old = clinic.ask("Olga", "GET", "/model")["policy_fingerprint"]
    clinic.live(8 * part, 8 * kills)
    year.check(old)
    clinic.live(4 * part, 4 * kills, broken=True)
    year.check(old)
    assert clinic.ask("Olga", "GET", "/audit")["alarm"]
    clinic.live(part, kills)
    assert clinic.alarm
    clinic.command("audits", "resume", clinic.store, "--reason", "the camera was broken")
    until(lambda: not clinic.ask("Olga", "GET", "/audit")["alarm"])
    clinic.alarm = False
    clinic.live(2 * part, 2 * kills, read_all=False)
    year.recalibrate(old)
    new = clinic.ask("Olga", "GET", "/model")["policy_fingerprint"]
    clinic.live(5 * part, 5 * kills, meanwhile=year.delete_patients)
    year.check(old, new)
    assert clinic.ask("Olga", "GET", "/audit")["audited"] > 0
    for failure in ("Traceback", '"level": "error"'):
        assert failure not in clinic.log.read_text()
