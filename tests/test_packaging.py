"""What is published beside the code agrees with it."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import misgiving

ROOT = Path(__file__).parents[1]
LOCKED_GROUPS = ("dev", "dist", "docs", "lightning")


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CITATION.cff", r"^version: (.+)$"),
        ("codemeta.json", r'^  "version": "(.+)",$'),
        ("conda/recipe.yaml", r"^  version: ([\d.a-z]+)$"),
        ("CHANGELOG.md", r"^## (.+)$"),
    ],
)
def test_every_file_names_the_version(file, pattern):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert re.findall(pattern, text, re.MULTILINE)[:1] == [misgiving.__version__]


def test_the_conda_recipe_has_the_dependencies_of_the_project():
    recipe = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    run = recipe.partition("  run:")[2].partition("\ntests:")[0]
    listed = {line.strip("- ").replace("-base", "") for line in run.split("\n") if line.strip()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {line.replace(">=", " >=") for line in project["dependencies"]}
    assert listed == needed | {f"python {project['requires-python']}"}


def test_the_container_serves_as_a_user_without_privileges():
    text = (ROOT / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    last_stage = re.split(r"^FROM ", text, flags=re.MULTILINE)[-1]
    words = [line.split(maxsplit=1) for line in last_stage.splitlines()[1:] if line.strip()]
    users = [value for instruction, value in words if instruction == "USER"]
    assert users == ["misgiving"]
    order = [instruction for instruction, _ in words]
    assert order.index("RUN") < order.index("USER") < order.index("ENTRYPOINT")
    assert "RUN" not in order[order.index("USER") :]


def test_the_lock_holds_every_dependency_with_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|file:|^-", text, re.MULTILINE)
    releases = re.findall(r"^([\w-]+)==([^ \n]+)(.*(?:\n .+)*)", text, re.MULTILINE)
    unhashed = {name for name, _, rest in releases if "--hash=sha256:" not in rest}
    assert unhashed == {"torch", "torchvision"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    groups = [groups[name] for name in LOCKED_GROUPS]
    for line in chain(project["project"]["dependencies"], *extras.values(), *groups):
        if isinstance(line, dict) or line.startswith("misgiving"):
            continue  # another of the lists
        needed = Requirement(line)
        versions = [version for name, version, _ in releases if name == needed.name]
        assert versions, f"{line}: make lock"
        assert all(needed.specifier.contains(version) for version in versions), line
