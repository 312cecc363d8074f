import pytest

from misgiving.errors import UsageError
from misgiving.registry import Registry


def test_a_known_name_gives_the_choice():
    assert Registry("colour", red=1)["red"] == 1


def test_an_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(UsageError, match="unknown colour 'green'; choose from red, blue"):
        Registry("colour", red=1, blue=2)["green"]
