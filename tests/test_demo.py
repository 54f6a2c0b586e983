"""The end of the demo when its parent is killed: what it started is taken down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.tools.checks import WAIT_S

DEMO = """
import sys, time
from examples.desk.demo import stop_with_parent
stop_with_parent()
print("running", flush=True)
try:
    time.sleep(float(sys.argv[1]))
finally:
    print("taken down", flush=True)
"""
MAKE = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.process
def test_a_demo_whose_make_is_killed_takes_its_platform_down() -> None:
    command = [sys.executable, "-c", MAKE, DEMO, str(WAIT_S)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as make:
        assert make.stdout is not None
        assert make.stdout.readline() == "running\n"
        make.kill()
        assert make.stdout.read() == "taken down\n"
