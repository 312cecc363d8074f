import pytest

from misgiving.errors import DataError
from misgiving.serve.server import read_key


def test_a_key_is_one_word_without_the_line_end(tmp_path):
    assert read_key(None, "from the environment\n") == "from the environment"
    for content in ("", "one\ntwo\n", "one two"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(DataError):
            read_key(tmp_path / "key", None)
