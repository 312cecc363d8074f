import pytest

from misgiving.reproduction import source_code

CODE = {
    "training/__init__.py": "",
    "training/loop.py": "from misgiving import losses\nfrom misgiving.training import steps\n",
    "training/steps.py": "def step():\n    return 1\n",
    "losses.py": "import numpy\n",
    "scores.py": "",
}
DOCUMENTED = '"""Steps."""\n\n\ndef step():\n    """One."""\n    return 1  # one\n'


@pytest.fixture
def digest_of(tmp_path, monkeypatch):
    """The digest of a module of a package of these files."""

    def digest(name, **changes):
        root = tmp_path / name
        for path, text in {**CODE, **changes}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        monkeypatch.setattr(source_code, "files", lambda _: root)
        return source_code.code_digest("misgiving.training.loop")

    return digest


@pytest.mark.parametrize(
    ("path", "text", "same"),
    [
        ("scores.py", "x = 1\n", True),  # which is not imported
        ("training/steps.py", DOCUMENTED, True),
        ("training/steps.py", "def step():\n    return 2\n", False),
        ("losses.py", "import numpy as np\n", False),
        ("losses.py", "import numpy\n\nfrom misgiving import scores\n", False),
    ],
)
def test_a_digest_is_of_the_code_of_a_module_and_of_all_that_it_imports(
    digest_of, path, text, same
):
    assert (digest_of("before") == digest_of("after", **{path: text})) == same
