"""Blindness, measured: a third reader who sees all that the service gives guesses no better."""

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import product

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from standin import START, Calibrated, case, review
from test_second_readings import ERRORS

CASES, ROUND, BURN_IN = 4000, 10, 400
WEIGHTS = [4, 1, 3, 3]  # of the decisions and classes in ERRORS


def features(row, place, page, before):
    """Every field of a blind case, its place in the list, and the counts and how they changed."""
    assert row["blind"]
    time = datetime.fromisoformat(row["received"])
    counts = [*page["counts"].values(), page["total"], page["reviewed"], page["last_review"]]
    return [
        *(int(row["id"][start : start + 8], 16) for start in range(0, 32, 8)),
        *(time.timestamp(), time.microsecond, row["position"], place, len(page["cases"])),
        *(len(row["name"]), int(row["name"].partition(".")[0]), row["image_kept"]),
        *(len(row["classes"]), row["metadata"] is None, row["answer"] is None, len(row)),
        *counts,
        *(now - old for now, old in zip(counts, before, strict=True)),
    ], counts


class Guesser:
    """Looks at the list before and after each honest answer, and later learns what was true."""

    def __init__(self, client):
        self.client, self.counts = client, [0] * 6
        self.seen = {1: {}, 2: {}}  # features by case, as a first and a second reading

    def look(self, reading):
        page = self.client.get("/cases?reader=Cem&reviewed=false&limit=60").json()
        counts = self.counts
        for place, row in enumerate(page["cases"]):
            if row.get("blind") and row["id"] not in self.seen[reading]:
                known, counts = features(row, place, page, self.counts)
                self.seen[reading][row["id"]] = known
        self.counts = counts

    def guesses(self, reading, truth):
        """Accuracy and AUROC of guesses for the later half, the best guess by base rates, cases."""
        ids = sorted(id for id in self.seen[reading] if id in truth)[BURN_IN // reading :]
        known = np.array([self.seen[reading][id] for id in ids], dtype=float)
        labels, half = np.array([truth[id] for id in ids]), len(ids) // 2
        model = HistGradientBoostingClassifier(random_state=0, max_iter=50)
        model.fit(known[:half], labels[:half])
        chances, told = model.predict_proba(known[half:])[:, 1], labels[half:]
        base = max(told.mean(), 1 - told.mean())
        accuracy = ((chances > 0.5) == told).mean()
        return accuracy, roc_auc_score(told, chances), base, len(told)


def honest_answers(client, reader, rows, drawn):
    """Read what is blind, each as often wrong as such cases are."""
    listed = client.get(f"/cases?reader={reader}&reviewed=false&limit=60").json()["cases"]
    for told in (rows[row["id"]] for row in listed if row.get("blind")):
        is_disputed = drawn.random() < ERRORS[told.decision, told.predicted_class]
        verdict, now = "none" if is_disputed else "agree", datetime.now(UTC)
        said = review("", verdict=verdict, reviewer=reader, reviewed_at=now)
        client.app.state.service.store.review(told.id, said)


def arrivals(start, draw, policy, drawn):
    """The next cases, some of them blind, by their ids."""
    rows = {}
    for number in range(start, start + ROUND):
        decision, name = drawn.choices([*ERRORS], WEIGHTS)[0]
        values = {"decision": decision, "predicted_class": name, "policy_fingerprint": policy}
        values["error_probability"] = drawn.random() * (0.1 if decision == "accept" else 1)
        values["received"] = START + timedelta(seconds=60 * number + drawn.random())
        row = draw(case(number, **values))
        rows[row.id] = row
    return rows


@pytest.mark.soak
def test_all_that_is_seen_of_a_blind_case_tells_neither_decision_nor_class(
    serving, agreed_cases_are_read_twice, monkeypatch
):
    agreed_cases_are_read_twice()
    monkeypatch.setattr("secrets.token_hex", lambda count: 2 * count * "5")
    client, drawn, rows = serving(Calibrated(), audit_share=0.5), random.Random(0), {}
    service, cem = client.app.state.service, Guesser(client)
    for start in range(0, CASES, ROUND):
        new = arrivals(start, service.audit_draw.draw, service.policy_fingerprint, drawn)
        rows |= new
        service.store.add([*new.values()])
        cem.look(1)
        honest_answers(client, "Ann", rows, drawn)
        cem.look(2)
        honest_answers(client, "Ben", rows, drawn)
        honest_answers(client, "Dan", rows, drawn)  # settles what two do not
    assert len(cem.seen[1]) > 2000
    truths = {
        "accepted": {row.id: row.decision == "accept" for row in rows.values()},
        "class": {row.id: row.predicted_class == "MEL" for row in rows.values()},
    }
    for reading, what in product((1, 2), truths):
        accuracy, area, base, count = cem.guesses(reading, truths[what])
        print(f"reading {reading}, {what}: {accuracy:.3f}, {area:.3f}; {base:.3f} of {count}")
        assert accuracy < base + 2 * math.sqrt(base * (1 - base) / count)
        assert abs(area - 0.5) < 2 * math.sqrt((count + 1) / (12 * base * (1 - base) * count**2))
