"""Environments with the dependencies of an extra and nothing else, linked from this one."""

import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import misgiving


def closure(name, extras=()):
    """Distributions that `name[extras]` installs, by name, including itself."""
    packages, waiting = {}, [Requirement(f"{name}[{','.join(extras)}]")]
    while waiting:
        requirement = waiting.pop()
        brought = packages.setdefault(
            canonicalize_name(requirement.name), distribution(requirement.name)
        )
        for line in brought.requires or ():
            needed = Requirement(line)
            asked = {"", *requirement.extras}
            applies = needed.marker is None or any(
                needed.marker.evaluate({"extra": extra}) for extra in asked
            )
            if applies and (canonicalize_name(needed.name) not in packages or needed.extras):
                waiting.append(needed)
    return packages


def files_of(brought):
    """The installed files of a distribution, byte code included; of misgiving, its sources."""
    if brought.metadata["Name"] == "misgiving":
        return [path for path in Path(misgiving.__file__).parent.rglob("*") if path.is_file()]
    return [path for path in map(Path, map(brought.locate_file, brought.files)) if path.is_file()]


def linked(folder, distributions):
    """A folder to import from, with links to these distributions."""
    folder.mkdir()
    (folder / "misgiving").symlink_to(Path(misgiving.__file__).parent)  # may be an editable install
    for brought in distributions.values():
        place = Path(brought.locate_file(""))
        for top in {Path(file).parts[0] for file in brought.files} - {"..", "__pycache__"}:
            (folder / top).exists() or (folder / top).symlink_to(place / top)
    return folder


def command_in(folder, *arguments):
    """The command that runs misgiving with this folder alone."""
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); from misgiving.cli import run; run()"
    # Isolated (-I) and without site (-S): neither site-packages nor the working folder is found.
    return [sys.executable, "-I", "-S", "-c", start, *map(str, arguments)]
