"""What is published beside the code agrees with it."""

import re
from pathlib import Path

import misgiving

ROOT = Path(__file__).parents[1]


def test_the_citation_names_the_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [misgiving.__version__]


def test_the_container_serves_as_a_user_without_privileges():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    last_stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    words = [line.split(maxsplit=1) for line in last_stage.splitlines()[1:] if line.strip()]
    users = [value for instruction, value in words if instruction == "USER"]
    assert users == ["misgiving"]
    order = [instruction for instruction, _ in words]
    assert order.index("RUN") < order.index("USER") < order.index("ENTRYPOINT")
    assert "RUN" not in order[order.index("USER") :]
