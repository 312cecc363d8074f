"""A policy with a threshold for each value of a column: the sender gives the value."""

from types import SimpleNamespace

from standin import Standin, picture

from misgiving.deferral.targets import Targets

TARGETS = Targets(max_error=0.1, for_each="site")


class Sited(Standin):
    """Accepts images of site A alone, as a policy might that knows no other."""

    policy = SimpleNamespace(certificate=SimpleNamespace(targets=TARGETS))

    def decide_inputs(self, inputs, columns=None):
        decisions = super().decide_inputs(inputs)
        return [
            decision.model_copy(update={"decision": "accept" if site == "A" else "defer"})
            for decision, site in zip(decisions, columns["site"], strict=True)
        ]


def test_the_sender_gives_the_value_and_another_one_makes_another_case(serving, monkeypatch):
    model = Sited()
    client = serving(Standin())
    service = client.app.state.service
    monkeypatch.setattr(service, "model", model)
    data = {"files": ("a.png", picture(0.02))}
    asked = {"A": "?site=A", "B": "?site=B", None: ""}
    cases = {
        site: client.post(f"/decisions{query}", files=data).json()["results"][0]["case"]
        for site, query in asked.items()
    }
    decided = {site: (case["decision"], case["value"]) for site, case in cases.items()}
    assert decided == {"A": ("accept", "A"), "B": ("defer", "B"), None: ("defer", None)}
    assert len({case["id"] for case in cases.values()}) == 3
    again = client.post("/decisions?site=A", files=data).json()["results"][0]
    assert (again["known"], again["case"]["id"]) == (True, cases["A"]["id"])
