"""The peak memory that a training process reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archwright.training.run_execution import peak_memory_bytes

HELD = 300 << 20
CHILD = "from archwright.training.run_execution import peak_memory_bytes; print(peak_memory_bytes())"


@pytest.mark.process
def test_the_peak_is_that_of_the_program_and_not_of_who_started_it() -> None:
    held = bytearray(b"x") * HELD
    said = int(subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True, text=True).stdout)
    assert said < HELD < peak_memory_bytes() and len(held) == HELD


def test_where_the_system_does_not_tell_it_apart_the_usual_figure_stands(tmp_path: Path) -> None:
    assert peak_memory_bytes(tmp_path / "none") > 1 << 20
