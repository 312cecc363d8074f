"""The report of a real reproduction, small as it is: nothing that it reads is made up."""

import csv
import re
from dataclasses import replace

import pytest
from fabricated import parse
from tiny import TINY

from misgiving.report.page import write_report
from misgiving.reproduction.aggregate import collect
from misgiving.reproduction.runner import on_this_machine, reproduce_units
from misgiving.reproduction.trial_data import TrialData


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("grouped")
    trial_data = TrialData(replace(TINY, split="grouped", trials=1), out / "cache")
    reproduce_units(trial_data, out, run=on_this_machine(threads=1))
    collect(trial_data, out)
    return out


@pytest.fixture(scope="module")
def page(folder):
    return parse(write_report(folder).read_text(encoding="utf-8"))


def test_a_grouped_reproduction_is_tuned_and_monitored_on_the_tuning_set(page):
    texts = [text.strip() for _, _, text in page.found]
    for name, expected in {"monitored": "tune", "tuning": "tune", "measured": "test"}.items():
        assert texts[texts.index(f"{name} set") + 1] == expected
    remarks = " ".join(page.texts("li"))
    assert "ODIN is tuned on the in-distribution images of the tune set" in remarks
    assert "monitored on the tune set" in remarks


def test_curves_and_findings_are_of_the_monitored_set(folder, page):
    with (folder / "histories.csv").open(newline="") as file:
        assert {row["set"] for row in csv.DictReader(file)} == {"train", "tune"}
    captions = " ".join(page.texts("figcaption"))
    assert re.search(r"classifiers\s+on\s+the tune set", captions)
    assert "validation" not in captions
    summary = " ".join(page.texts("li"))
    assert "on the tune set (95 % of vanilla's mean final value" in summary


def test_the_time_of_the_units_is_on_the_page(page):
    texts = [text.strip() for _, _, text in page.found]
    told = texts[texts.index("training and measuring, summed over units") + 1]
    assert re.fullmatch(r"[\d.]+ minutes", told)
    assert float(told.split()[0]) > 0
