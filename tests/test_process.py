"""How the process is set up: what is freed is kept for what comes next."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from pconv_cli.process import settle
if sys.argv[1] == "settled":
    settle()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

size = 48 << 20  # not NumPy's memory, which may come in huge pages
for _ in range(3):
    b"x" * size
before = faults()
for _ in range(20):
    b"x" * size
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_memory_that_was_freed_is_used_again_and_not_asked_for_anew() -> None:
    plain, settled = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)
        for how in ("plain", "settled")
    )
    if plain < 1000:
        pytest.skip("this C library keeps large blocks by itself")
    assert settled < plain / 20


OLD = """
import ctypes
from pconv_cli import process

asked = []

class Library:
    def mallopt(self, option, value):
        asked.append((option, value))
        return int(TAKEN(option, value))

process.sys.platform = "linux"
process.ctypes.CDLL = lambda name: Library()
process.settle()
print(*(option for option, _ in asked))
"""


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ("lambda option, value: True", "-8 -3 -1"),
        ("lambda option, value: option != -3 or value <= 32 << 20", "-8 -3 -3 -1"),
        ("lambda option, value: option != -3", "-8 -3 -3"),
    ],
)
def test_what_an_older_library_refuses_is_asked_for_in_less_and_nothing_is_set_that_harms_alone(
    taken: str, expected: str
) -> None:
    code = OLD.replace("TAKEN", f"({taken})")
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == expected


def test_settling_twice_and_where_there_is_no_such_library_is_no_error() -> None:
    code = (
        "import ctypes; from pconv_cli.process import settle; settle(); ctypes.CDLL = lambda name: object(); settle()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
