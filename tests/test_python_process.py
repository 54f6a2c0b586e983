"""Command lines of Python children, and entry points that refuse to run without a safe path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archwright import python_process
from archwright.settings import child_environment

from .tools.checks import WAIT_S

ENGINES = "archwright.engines"
SOURCE = Path(python_process.__file__).parent
ENTRY_POINTS = [
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if "run_entry_point(main)\n" in path.read_text(encoding="utf-8") and path.name != "python_process.py"
]


def test_launch_lines_of_older_bundles_gain_a_safe_path() -> None:
    safe = [sys.executable, "-P", "-m", ENGINES, "a"]
    assert python_process.build_python_command("-m", ENGINES, "a") == safe
    assert python_process.build_python_command("-P", "-m", ENGINES, "a") == safe
    assert python_process.build_module_command(ENGINES, "a") == safe


@pytest.mark.process
def test_every_entry_point_refuses_a_process_without_a_safe_path(tmp_path: Path) -> None:
    assert len(ENTRY_POINTS) == 11
    environment = child_environment(without=("PYTHONSAFEPATH",))
    commands = [[sys.executable, "-m", module.removesuffix(".__main__")] for module in ENTRY_POINTS]
    children = [
        subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for child in children:
        _, error = child.communicate(timeout=WAIT_S)
        assert child.returncode == 8 and error.startswith("AW-OPS-45") and "PYTHONSAFEPATH" in error
