from pathlib import Path

import pytest

import misgiving
from misgiving.reproduction import source_code
from misgiving.reproduction.source_code import NOT_MEASURING, NOT_TRAINING

CODE = {
    "training/loop.py": "",
    "losses.py": "import numpy\n",
    "evaluation/measures.py": "",
    "reproduction/runner.py": "",
    "reproduction/report/page.py": "",
    "cli/train.py": "",
}


def test_all_that_a_digest_leaves_out_is_part_of_the_package():
    assert all((Path(misgiving.__file__).parent / name).exists() for name in NOT_TRAINING)


@pytest.mark.parametrize(
    ("path", "trains", "measures"),
    [
        ("losses.py", True, True),
        ("training/loop.py", True, True),
        ("training/steps.py", True, True),  # which is new
        ("evaluation/measures.py", False, True),
        ("reproduction/runner.py", False, True),
        ("reproduction/report/page.py", False, False),
        ("cli/train.py", False, False),
    ],
)
def test_a_digest_changes_with_the_code_on_which_a_unit_depends(
    tmp_path, monkeypatch, path, trains, measures
):
    def digests(name, **changes):
        root = tmp_path / name
        for place, text in {**CODE, **changes}.items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_text(text)
        monkeypatch.setattr(source_code, "files", lambda _: root)
        source_code.code_digest.cache_clear()
        return [source_code.code_digest(left_out) for left_out in (NOT_TRAINING, NOT_MEASURING)]

    before, after = digests("before"), digests("after", **{path: "x = 1\n"})
    source_code.code_digest.cache_clear()
    assert [a != b for a, b in zip(before, after, strict=True)] == [trains, measures]
