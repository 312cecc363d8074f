import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
import pytest
from cyclopts import App, CycloptsError
from cyclopts.validators import Number

from misgiving.cli import app, explanation
from misgiving.cli.options import (
    COMMAND,
    COMMAND_SETTINGS,
    SET_BY_TRAIN,
    Fields,
    Values,
    command,
    read_arguments,
)
from misgiving.errors import (
    ExplainedError,
    Parameter,
    UsageError,
    require,
    require_choices,
    separated,
)


@dataclass(frozen=True, kw_only=True)
class Baking:
    """Ingredients and oven.

    Attributes:
        flour: Kind of flour.
        grams: Weight of
            the flour.
        tin (TIN): Tin to bake in.
        salted: Add salt.
        vegan: Leave out butter.
        folds: Minutes of the folds.
        toppings: Toppings.
        shares: Shares of grains.
        glaze: Share of sugar.
    """

    flour: Literal["wheat", "rye"] = "wheat"
    grams: float = 500.0
    tin: Path | None = None
    salted: bool = True
    vegan: bool = False
    folds: tuple[int, ...] | None = None
    toppings: tuple[str, ...] = ("poppy", "sesame")
    shares: Mapping[str, float] = field(default_factory=dict)
    glaze: float | None = 0.5

    def __post_init__(self):
        require_choices(self)
        require(self, "grams", self.grams > 0, "be positive")


@pytest.fixture
def bake():
    """Run a command with options from `Baking`; gives what it received."""
    received = []

    @partial(command, brief=True)
    def bake(
        name: str,
        *,
        baking: Baking,
        times: Annotated[int, cyclopts.Parameter(validator=Number(gte=1))] = 1,
    ):
        received.append((name, baking, times))

    return lambda *words: (invoke(bake, *words), received[-1] if received else None)


def invoke(function, *words):
    quiet = {"exit_on_error": False, "print_error": False, "result_action": "return_value"}
    alone = App("bakery", config=read_arguments, **quiet, **COMMAND_SETTINGS)
    alone.command(function, name="bake")
    return alone(["bake", *words])


def test_every_kind_of_field_is_filled(bake):
    words = (
        "--flour rye --grams 3 --tin t --no-salted --vegan --folds 1,2 --toppings a, --glaze off"
    )
    _, (_, baking, times) = bake(
        "loaf", *words.split(), "--shares", "oat=0.5", "--shares", "a, b=1", "--times", "2"
    )
    assert times == 2
    repeated = bake("loaf", *words.split(), "--times", "2", "--times", "3", "--folds", "3")[1]
    assert (repeated[1].folds, repeated[2]) == ((3,), 3)  # the last counts
    assert bake("loaf")[1] == ("loaf", Baking(), 1)  # what is not given keeps its default
    assert baking == Baking(
        flour="rye",
        grams=3.0,
        tin=Path("t"),
        salted=False,
        vegan=True,
        folds=(1, 2),
        toppings=("a", ""),
        shares={"oat": 0.5, "a, b": 1.0},
        glaze=None,
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--grams", "0"], ["--grams", "0.0"]),
        (["--folds", "1,x"], ["--folds", "A,B,...", "'1,x'"]),
        (["--shares", "oat"], ["--shares", "CLASS=NUMBER", "'oat'"]),
        (["--shares", "rye=1", "--shares", "oat"], ["--shares", "CLASS=NUMBER", "oat'"]),
        (["--glaze", "much"], ["--glaze", "NUMBER|off", "'much'"]),
        (["--times", "0"], ["--times", "0", ">= 1"]),
        (["--flour", "rice"], ["--flour", "rice", "wheat", "rye"]),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_the_name_of_its_option(bake, words, named):
    with pytest.raises((ExplainedError, CycloptsError)) as caught:
        bake("loaf", *words)
    assert getattr(caught.value, "exit_code", 2) == 2
    assert all(word in explanation(caught.value) for word in named)


@pytest.mark.parametrize(
    ("written", "changes"),
    [
        ("grams = 3", {"grams": 3.0}),
        ("salted = false\nvegan = true", {"salted": False, "vegan": True}),
        ('tin = "t"\nflour = "rye"', {"tin": Path("t"), "flour": "rye"}),
        ('folds = [1, 2]\ntoppings = ["a", "b"]', {"folds": (1, 2), "toppings": ("a", "b")}),
    ],
)
def test_a_file_gives_values_that_the_command_line_overrides(bake, tmp_path, written, changes):
    (tmp_path / "c.toml").write_text(f"times = 2\n{written}")
    words = ("loaf", "--config", str(tmp_path / "c.toml"))
    assert bake(*words)[1] == ("loaf", replace(Baking(), **changes), 2)
    typed = ["--grams", "4", "--salted", "--flour", "wheat", "--times", "3"]
    expected = replace(Baking(), **changes | {"grams": 4.0, "salted": True, "flour": "wheat"})
    assert bake(*words, *typed)[1] == ("loaf", expected, 3)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("grms = 3", ["grms", "--grams"]),
        ("times = 1.5", ["times", "whole", "1.5"]),
        ("times = [1, 2]", ["times", "[1, 2]"]),
        ("salted = 3", ["salted", '"3"']),
        ("tin = ['t']", ["tin", '["t"]']),
        ("flour = 'rice'", ["flour", '"rice"', '"wheat", "rye"']),
        ("grams = = 3", ["damaged"]),
    ],
)
def test_a_file_with_an_unknown_key_or_another_type_is_refused(bake, tmp_path, written, why):
    file = tmp_path / "c.toml"
    file.write_text(written)
    with pytest.raises((ExplainedError, CycloptsError)) as caught:
        bake("loaf", "--config", str(file))
    assert all(word in explanation(caught.value) for word in [*why, str(file)])


def test_a_value_of_a_file_that_has_no_effect_is_refused(fail, tmp_path):
    (tmp_path / "c.toml").write_text('ray = "auto"')
    words = ("--out", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert "--ray has no effect with --collect" in fail(2, "reproduce", "--collect", *words)


@pytest.mark.parametrize(("name", "most"), [("train", 350), ("reproduce", 480)])
def test_help_is_short_and_help_all_has_every_option(misgiving, name, most):
    brief, whole = (misgiving(name, flag).out for flag in ("--help", "--help-all"))
    assert len(re.findall(r"\S*\w\S*", brief)) < most
    flags = {flag for each in COMMAND.get() if not each.children for flag in each.names}
    assert flags - {"DATA", "--config", "--help-all"} <= {*whole.split()}
    common = {"--out", "--backbone", "--epochs", "--seed", "--config", "--help-all"}
    assert common <= set(brief.split())
    assert {"--margin", "--precision", "--cache"}.isdisjoint(brief.split())


def test_changes_hold_only_what_is_given():
    received = []

    @command
    def rebake(*, changes: Annotated[Values, Fields(Baking, ("flour", "salted"), defaults={})]):
        received.append(changes)

    for words in ([], ["--no-salted"], ["--flour", "wheat"]):
        invoke(rebake, *words)
    assert received == [{}, {"salted": False}, {"flour": "wheat"}]


def test_failures_name_options_in_place_of_parameters():
    @command
    def burn(*, _: Baking):
        flour, salted = Parameter("flour", "rye"), Parameter("salted", False)
        vegan, keep = Parameter("vegan", True), Parameter("keep", "last")
        raise UsageError(*separated([flour, salted, vegan, keep, Parameter("yeast")], ", "))

    with pytest.raises(UsageError) as caught:
        invoke(burn)
    assert str(caught.value) == (
        '`flour="rye"`, `salted=False`, `vegan=True`, `keep="last"`, `yeast`'
    )
    assert explanation(caught.value) == (
        "--flour rye, --no-salted, --vegan, train --keep last, `yeast`"
    )


def test_train_has_the_options_that_other_commands_refer_to():
    options = app["train"].assemble_argument_collection()
    assert {f"--{name}" for name in SET_BY_TRAIN} <= {
        flag for each in options for flag in each.names
    }
