import json
from contextlib import suppress

import pytest

from misgiving.errors import UsageError
from misgiving.results.decision_journal import (
    DecisionJournal,
    Entry,
    decision_journal,
    journal_path,
)
from misgiving.results.decision_tables import DecisionRow

FIRST, SECOND = (
    DecisionRow("a.png", "a", 0.1 + 0.2, 1 / 3, decision, "why", ood_score=2.5)
    for decision in ("accept", "defer")
)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "predictions.csv"


class Stop(Exception):
    """What ends an attempt."""


KEYS = ("x", "y", "z")


def entries(decisions):
    return [Entry(*item) for item in decisions.items()]


def kept(journal):
    """The decisions of a journal by their keys."""
    return dict(journal.at(int(place)) for place in journal.find(KEYS) if place >= 0)


def attempt(out, decisions, *, resume=False, fingerprint="model", **process):
    """Keep these decisions and stop; gives what was kept before."""
    before = {}
    with suppress(Stop), decision_journal(out, fingerprint, resume=resume, **process) as journal:
        before |= kept(journal)
        journal.add(entries(decisions))
        raise Stop
    return before


def test_what_is_kept_is_found_again_to_the_last_digit(out):
    attempt(out, {"x": FIRST})
    assert attempt(out, {"y": SECOND}, resume=True) == {"x": FIRST}
    assert attempt(out, {}, resume=True) == {"x": FIRST, "y": SECOND}


def test_without_resume_it_starts_again(out):
    attempt(out, {"x": FIRST})
    assert attempt(out, {"y": SECOND}) == {}
    assert attempt(out, {}, resume=True) == {"y": SECOND}


def test_a_file_that_was_cut_anywhere_gives_the_whole_lines_before(out):
    attempt(out, {"x": FIRST, "y": SECOND})
    content = journal_path(out).read_bytes()
    ends = [position + 1 for position, byte in enumerate(content) if byte == ord("\n")]
    cuts = {*range(0, len(content), 9), *ends, *(end - 1 for end in ends)}
    for length in sorted(cuts):
        journal_path(out).write_bytes(content[:length])
        whole = sum(end <= length for end in ends[1:])
        found = attempt(out, {"z": FIRST}, resume=True)
        assert found == dict([("x", FIRST), ("y", SECOND)][:whole])
        lines = journal_path(out).read_text().splitlines()
        assert [json.loads(line)[0] for line in lines[1:]] == [*found, "z"]


def test_decisions_of_another_model_are_not_resumed(out):
    attempt(out, {"x": FIRST})
    with pytest.raises(UsageError, match="resume"):
        attempt(out, {}, resume=True, fingerprint="other")
    assert attempt(out, {}, resume=True) == {"x": FIRST}


def test_two_processes_do_not_write_the_same(out):
    with decision_journal(out, "model", resume=False) as journal:
        journal.add(entries({"x": FIRST}))
        with (
            pytest.raises(UsageError, match=str(out)),
            decision_journal(out, "model", resume=False),
        ):
            pass
        assert journal_path(out).stat().st_size > 100


def test_nothing_is_left_when_all_is_done_or_nothing_was(out, tmp_path):
    with decision_journal(out, "model", resume=False) as journal:
        journal.add(entries({"x": FIRST}))
    attempt(out, {})
    assert list(tmp_path.iterdir()) == []


def test_processes_keep_their_own_and_fewer_take_over_the_rest(out, tmp_path):
    for rank, one in enumerate(({"x": FIRST}, {"y": SECOND}, {"z": FIRST})):
        attempt(out, one, rank=rank, processes=3)
    assert attempt(out, {}, resume=True, rank=1, processes=2) == {"y": SECOND}
    assert attempt(out, {}, resume=True, rank=0, processes=2) == {"x": FIRST, "z": FIRST}
    assert attempt(out, {}, resume=True) == {"x": FIRST, "y": SECOND, "z": FIRST}
    assert list(tmp_path.iterdir()) == [journal_path(out)]
    attempt(out, {"y": FIRST}, rank=1, processes=2)
    assert attempt(out, {"x": SECOND}) == {}
    assert attempt(out, {}, resume=True) == {"x": SECOND}


def test_the_last_decision_on_an_image_counts():
    journal = DecisionJournal()
    journal.add(entries({"x": FIRST, "y": FIRST}))
    journal.add(entries({"x": SECOND}))
    assert kept(journal) == {"x": SECOND, "y": FIRST}
