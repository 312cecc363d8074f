from pathlib import Path

import pytest

from misgiving.configuration import default_cache
from misgiving.errors import UsageError
from misgiving.registry import Registry


def test_a_known_name_gives_the_choice():
    assert Registry("colour", red=1)["red"] == 1


def test_an_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(UsageError, match="unknown colour 'green'; choose from red, blue"):
        Registry("colour", red=1, blue=2)["green"]


@pytest.mark.parametrize(
    ("variable", "expected"), [("/x/y", "/x/y/misgiving"), ("", "/h/.cache/misgiving")]
)
def test_the_default_cache_is_where_caches_belong(monkeypatch, variable, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/h")
    assert default_cache() == Path(expected)
