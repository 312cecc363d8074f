"""In shadow everyone is told to defer, whatever the policy decides, and all is read blind."""

from contextlib import closing

import pytest
import sqlalchemy as sa
from refusals import naming
from standin import CLASSES, Calibrated, Standin, picture, rows_of, sent, with_key

from misgiving.cli.serve import _say_policy
from misgiving.deferral.audit import ALARM_LEVEL
from misgiving.errors import UsageError
from misgiving.serve.deletion import delete_cases
from misgiving.serve.listed_cases import add_listed_cases
from misgiving.serve.settings import ServiceSettings
from misgiving.serve.store import Store

LEVELS = (0.02, 0.45, 0.97, 0.04)  # of which the policy would defer the second


class WithoutPolicy(Standin):
    """Defers every image, as a bundle without a policy."""

    def decision_of(self, model_input):
        return super().decision_of(model_input).model_copy(update={"decision": "defer"})


def read(client, id, name, reader="Ann"):
    body = {"verdict": "override", "class": name, "reviewer": reader}
    return client.post(f"/cases/{id}/review", json=body).json()


@pytest.fixture(params=[Calibrated, WithoutPolicy])
def shadow(request, serving, tmp_path):
    return serving(request.param(), shadow=True, keep_images=tmp_path / "kept")


def test_everyone_is_told_to_defer_before_and_after_a_case_is_read(shadow):
    cases = [sent(shadow, picture(level), f"{level}.png") for level in LEVELS]
    again = [sent(shadow, picture(level)) for level in LEVELS]
    told = [
        read(shadow, row["id"], CLASSES[level > 0.5])
        for row, level in zip(cases, LEVELS, strict=True)
    ]
    listed = shadow.get("/cases").json()
    got = [shadow.get(f"/cases/{row['id']}").json() for row in cases]
    rows = rows_of(shadow.get("/cases.csv"))
    for row in (*cases, *again, *told, *listed["cases"], *got, *rows):
        assert (row["decision"], "shadow" in row["reason"]) == ("defer", True)
    assert listed["counts"] == {"accept": 0, "defer": 4, "ood": 0}


def test_a_file_that_is_stored_twice_at_once_is_deferred_for_both_senders(serving, monkeypatch):
    add = Store.add

    def twice(store, cases, **draw):
        copies = [case.model_copy(update={"id": "0" * 32}) for case in cases]
        return add(store, [*copies, *cases], **draw)[len(copies) :]

    monkeypatch.setattr(Store, "add", twice)
    told = sent(serving(Calibrated(), shadow=True), picture(LEVELS[0]))
    assert (told["id"], told["decision"]) == ("0" * 32, "defer")


def test_every_case_is_read_blind_and_makes_the_sample_to_calibrate_on_also_afterwards(
    shadow, serving, tmp_path
):
    ids = [sent(shadow, picture(level), f"{level}.png")["id"] for level in LEVELS]
    assert all(row["blind"] for row in shadow.get("/cases").json()["cases"])
    assert shadow.get("/model").json()["shadow"]
    for id, level in zip(ids, LEVELS, strict=True):
        read(shadow, id, CLASSES[level > 0.5])
    rows = rows_of(shadow.get("/audit.csv"))
    assert [row["label"] for row in rows] == ["dark", "dark", "light", "dark"]
    assert all(row["audited"] == "yes" and row["path"] for row in rows)
    live = serving(Calibrated(), keep_images=tmp_path / "kept", audit_share=0.0)
    assert rows_of(live.get("/audit.csv?shadow=true")) == rows


def test_errors_of_a_candidate_count_and_nobody_has_to_be_told_of_them(serving):
    client = serving(Calibrated(), shadow=True)
    id = sent(client, picture(0.02))["id"]
    for reader in ("Ann", "Ben"):
        read(client, id, "light", reader)
    audit = client.get("/audit").json()
    assert (audit["accepted"], audit["audited"], audit["wrong"]) == (1, 1, 1)
    assert client.get("/found-wrong").json()["answers"] == []


def test_a_key_of_any_role_is_told_to_defer(serving, sqlite_place):
    client = serving(Calibrated(), shadow=True)
    keys = {role: with_key(sqlite_place, role, role) for role in ("send", "read", "operate")}
    answer = client.post(
        "/decisions", files={"files": ("a.png", picture(0.02))}, headers=keys["send"]
    )
    case = answer.json()["results"][0]["case"]
    body = {"verdict": "override", "class": "dark"}
    assert client.post(f"/cases/{case['id']}/review", json=body, headers=keys["read"]).is_success
    got = [client.get(f"/cases/{case['id']}", headers=key).json() for key in keys.values()]
    assert [row["decision"] for row in (case, *got)] == ["defer"] * 4


def test_a_candidate_that_is_wrong_too_often_raises_no_alarm_where_nobody_acts_on_it(serving):
    client = serving(Calibrated(), shadow=True)
    for number in range(12):
        id = sent(client, picture(0.02, size=(40, 30 + number)))["id"]
        for reader in ("Ann", "Ben"):
            read(client, id, "light", reader)
    audit = client.get("/audit").json()
    assert (audit["wrong"], audit["e_value"] > 1 / ALARM_LEVEL, audit["alarm"]) == (12, True, False)
    answer = client.post("/decisions", files={"files": ("a.png", picture(0.03))}).json()
    assert (answer["alarm"], "shadow" in answer["results"][0]["case"]["reason"]) == (False, True)


def test_a_policy_has_other_audits_once_it_decides_live(serving):
    shadow = serving(Calibrated(), shadow=True)
    id = sent(shadow, picture(0.02))["id"]
    for reader in ("Ann", "Ben"):
        read(shadow, id, "light", reader)
    live = serving(Calibrated(), audit_share=1.0)
    first = live.get("/audit").json()
    assert (first["accepted"], first["audited"], rows_of(live.get("/audit.csv"))) == (0, 0, [])
    again = sent(live, picture(0.02))
    assert (again["decision"], again["id"] != id) == ("accept", True)
    read(live, again["id"], "dark")
    now = live.get("/audit").json()
    assert (now["accepted"], now["audited"], now["wrong"]) == (1, 1, 0)
    assert [row["id"] for row in rows_of(live.get("/audit.csv"))] == [again["id"]]
    back = serving(Calibrated(), shadow=True)
    assert sent(back, picture(0.02))["id"] == id
    assert [row["id"] for row in rows_of(back.get("/audit.csv"))] == [id]
    assert back.get("/audit").json()["wrong"] == 1


def test_deleted_cases_stay_in_the_audits_of_the_candidate_alone(serving, sqlite_place):
    client = serving(Calibrated(), shadow=True)
    id = sent(client, picture(0.02))["id"]
    for reader in ("Ann", "Ben"):
        read(client, id, "light", reader)
    with closing(Store.open(sqlite_place)) as store:
        assert delete_cases(store, None, sa.true()) == (1, 0, 0)
    for service, expected in (
        (serving(Calibrated(), shadow=True), (1, 1, 1)),
        (serving(Calibrated(), audit_share=1.0), (0, 0, 0)),
    ):
        audit = service.get("/audit").json()
        assert (audit["accepted"], audit["audited"], audit["wrong"]) == expected


def test_images_of_a_list_are_deferred_too(serving, tmp_path):
    client = serving(Calibrated(), shadow=True)
    (tmp_path / "a.png").write_bytes(picture(0.02))
    rows = [{"path": str(tmp_path / "a.png")}]
    assert add_listed_cases(client.app.state.service, rows, lambda *_: None) == []
    (row,) = client.get("/cases").json()["cases"]
    assert (row["decision"], row["shadow"]) == ("defer", True)


def test_what_serve_says(serving, capsys):
    _say_policy(serving(WithoutPolicy(), shadow=True).app.state.service)
    client = serving(Calibrated(), shadow=True)
    sent(client, picture(0.02))
    _say_policy(client.app.state.service)
    assert capsys.readouterr().err.count("in shadow: everyone is told to defer") == 2


def test_a_share_is_refused_in_shadow():
    with pytest.raises(UsageError, check=naming("audit_share", "shadow")):
        ServiceSettings(shadow=True, audit_share=0.1)
