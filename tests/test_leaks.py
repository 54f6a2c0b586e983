"""A file or process that a test leaves open, or another umask, fails this test, and not a later test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .tools.checks import WAIT_S

ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.leaks import collect_leaks_of_file, collect_leaks_of_test\n"
LEAK = """
import gc
import subprocess
import sys
import pytest

gc.set_threshold(50_000, 20, 50)  # as in these tests: no collection comes by itself

class Holder:
    def __init__(self, held):
        self.held, self.me = held, self
"""
IN_A_CYCLE = """
def test_leaks():
    Holder(open(__file__))

def test_innocent():
    gc.collect()
"""
IN_A_FAILURE = """
def test_leaks():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert child.wait(0) == 0

def test_innocent():
    gc.collect()
"""
OF_A_FILE = """
@pytest.fixture(scope="module")
def held():
    return Holder(open(__file__))

def test_borrows(held):
    gc.collect()

def test_leaks(held):
    gc.collect()
"""
OF_A_UMASK = """
import os

def test_leaks():
    os.umask(0o123)

def test_innocent():
    pass
"""
INNOCENT = """
import gc

def test_of_the_next_file():
    gc.collect()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("code", "passed", "failed", "said"),
    [
        (IN_A_CYCLE, 3, 0, "ResourceWarning: "),
        (IN_A_FAILURE, 2, 1, "ResourceWarning: "),
        (OF_A_FILE, 3, 0, "ResourceWarning: "),
        (OF_A_UMASK, 3, 0, "the test left the umask 0o123 instead of "),
    ],
    ids=["in a cycle", "in a failure", "of a file", "of a umask"],
)
def test_a_leak_is_charged_to_the_test_that_caused_it(
    tmp_path: Path, code: str, passed: int, failed: int, said: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_a.py").write_text(LEAK + code)
    (tmp_path / "test_b.py").write_text(INNOCENT)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-W", "error", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=WAIT_S
    )
    charged = re.findall(r"^ERROR test_\w\.py::(\w+)", done.stdout, re.MULTILINE)
    assert charged == ["test_leaks"], done.stdout
    assert said in done.stdout
    counts = [int(count) for count in re.findall(r"(\d+) (?:passed|failed)", done.stdout.splitlines()[-1])]
    assert sorted(counts) == sorted(count for count in (passed, failed) if count), done.stdout
