import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from misgiving.cli import app, explanation
from misgiving.cli.options import Fields, Values, command
from misgiving.cli.progress import COMMAND, SET_BY_TRAIN, with_options
from misgiving.errors import ExplainedError, UsageError, require, require_choices


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
        simultaneous: Bake all at once.
        hidden: Secret of the baker.
    """

    flour: Literal["wheat", "rye"] = "wheat"
    grams: float = 500.0
    tin: Path | None = None
    salted: bool = True
    vegan: bool = False
    folds: tuple[int, ...] | None = None
    toppings: tuple[str, ...] = ("poppy", "sesame")
    shares: Mapping[str, float] = field(default_factory=dict)
    simultaneous: bool = True
    hidden: str = "yeast"

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
        times: int = 1,
    ):
        received.append((name, baking, times))

    return lambda *words: (invoke(bake, *words), received[-1] if received else None)


def invoke(function, *words):
    alone = typer.Typer()
    alone.command()(function)
    return alone(list(words), standalone_mode=False)


def test_every_kind_of_field_is_filled(bake):
    words = "--flour rye --grams 3 --tin t --no-salted --vegan --folds 1,2 --toppings a, --each"
    _, (_, baking, times) = bake(
        "loaf", *words.split(), "--shares", "oat=0.5", "--shares", "a, b=1", "--times", "2"
    )
    assert times == 2
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
        simultaneous=False,
    )


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--grams", "0"], ["--grams", "0.0"]),
        (["--folds", "1,x"], ["--folds", "A,B,...", "'1,x'"]),
        (["--shares", "oat"], ["--shares", "CLASS=NUMBER", "'oat'"]),
        (["--flour", "rice"], ["--flour", "rice", "wheat", "rye"]),
        (["--hidden", "salt"], ["--hidden"]),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_the_name_of_its_option(bake, words, named):
    with pytest.raises(Exception, match=r"\w") as caught:
        bake("loaf", *words)
    assert caught.value.exit_code == 2
    assert all(word in explanation(caught.value) for word in named)


@pytest.mark.parametrize(
    ("written", "changes"),
    [
        ("grams = 3", {"grams": 3.0}),
        ("salted = false\nvegan = true", {"salted": False, "vegan": True}),
        ('tin = "t"\nflour = "rye"', {"tin": Path("t"), "flour": "rye"}),
        ('folds = [1, 2]\ntoppings = ["a", "b"]', {"folds": (1, 2), "toppings": ("a", "b")}),
        ('[shares]\noat = 0.5\n"a, b" = 1', {"shares": {"oat": 0.5, "a, b": 1.0}}),
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
        ("grms = 3", "'grms' is not an option of"),
        ("times = 1.5", "'times' is 1.5"),
        ("salted = 3", "'salted' is 3"),
        ("tin = ['t']", "'tin' is ['t']: text is expected"),
        ("flour = 'rice'", "'rice' is not one of 'wheat', 'rye'"),
        ("grams = = 3", "damaged"),
    ],
)
def test_a_file_with_an_unknown_key_or_another_type_is_refused(bake, tmp_path, written, why):
    file = tmp_path / "c.toml"
    file.write_text(written)
    with pytest.raises(ExplainedError) as caught:
        bake("loaf", "--config", str(file))
    assert str(file) in str(caught.value)
    assert why in str(caught.value)


@pytest.mark.parametrize("line", ['experiment = "generalization"', 'ray = "auto"', "threads = 7"])
def test_a_value_of_a_file_that_has_no_effect_is_refused(misgiving, tmp_path, line):
    (tmp_path / "c.toml").write_text(line)
    words = ("--out", tmp_path / "out", "--config", tmp_path / "c.toml")
    code, _, error = misgiving("reproduce", "--collect", *words)
    assert (code, f"--{line.split()[0]} has no effect with --collect" in error) == (2, True)


@pytest.mark.parametrize(("name", "most"), [("train", 350), ("reproduce", 480)])
def test_help_is_short_and_help_all_has_every_option(misgiving, name, most):
    brief, whole = (misgiving(name, flag).out for flag in ("--help", "--help-all"))
    assert len(re.findall(r"\S*\w\S*", brief)) < most
    options = {flag for o in get_command(app).commands[name].params for flag in o.opts}
    flags = {flag for flag in options if flag.startswith("--")}
    assert flags <= set(whole.split())
    common = {"--out", "--backbone", "--epochs", "--seed", "--config", "--help-all"}
    assert common <= set(brief.split())
    assert {"--margin", "--precision", "--cache"}.isdisjoint(brief.split())


def test_changes_hold_only_what_is_given():
    received = []

    @command
    def rebake(*, changes: Annotated[Values, Fields(Baking, ("flour", "salted"), optional=True)]):
        received.append(changes)

    for words in ([], ["--no-salted"], ["--flour", "wheat"]):
        invoke(rebake, *words)
    assert received == [{}, {"salted": False}, {"flour": "wheat"}]


def test_failures_name_options_in_place_of_parameters():
    @command
    def burn(*, baking: Baking):
        others = '`salted=False`, `vegan=True`, `simultaneous=False`, `keep="last"`'
        raise UsageError(f"change `flour`, {others} or `{baking.hidden}`")

    with pytest.raises(UsageError) as caught:
        invoke(burn)
    assert str(caught.value) == (
        "change --flour, --no-salted, --vegan, --each, train --keep last or `yeast`"
    )


def test_train_has_the_options_that_other_commands_refer_to():
    COMMAND.set(typer.Context(get_command(app).commands["train"]))
    for name, (option,) in SET_BY_TRAIN.items():
        assert f"train {with_options(f'`{name}`')}" == option


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(max_size=5), finite, max_size=3))
def test_rates_are_read_as_written(rates):
    received = []

    @command
    def bake(*, changes: Annotated[Values, Fields(Baking, ("shares",), optional=True)]):
        received.append(changes.get("shares", {}))

    invoke(bake, *(word for key in rates for word in ("--shares", f"{key}={rates[key]!r}")))
    assert received == [rates]
