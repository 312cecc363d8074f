"""Memory that commands keep, counted by the pages that Linux maps for the second of two blocks."""

import os
import platform
import subprocess
import sys

import pytest

from misgiving.training.allocator import MALLOC_SETTINGS

SIZE = 100 << 20
PAGES = SIZE // os.sysconf("SC_PAGE_SIZE")
SECOND = f"""
import resource
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b"x" * {SIZE}
before = faults()
b"x" * {SIZE}
print(faults() - before)
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's")


def pages_of_the_second(before="", **environment):
    """Pages that are mapped for a block that is as large as one just freed."""
    command = [sys.executable, "-c", before + SECOND]
    kept = {name: value for name, value in os.environ.items() if name not in MALLOC_SETTINGS}
    done = subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


KEEP = "from misgiving.training.allocator import keep_freed_memory as keep; keep()"


def test_a_library_in_another_program_and_what_the_user_has_set_change_nothing():
    assert pages_of_the_second("import misgiving, misgiving.cli") > 0.9 * PAGES
    assert pages_of_the_second(KEEP, MALLOC_TRIM_THRESHOLD_="131072") > 0.9 * PAGES


def test_the_command_line_keeps_what_it_frees():
    run = f"""
import atexit, sys
def second():
    exec({SECOND!r}, dict())
atexit.register(second)
sys.argv = ["misgiving", "--version"]
from misgiving.cli import run
run()
"""
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 0.1 * PAGES
