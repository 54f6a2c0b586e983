"""A full disk, as a small file system of its own: strangers get 401, administration works, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archwright.settings import child_environment

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests" / "tools" / "full_disk.py"


@pytest.mark.nightly
def test_administration_works_on_a_full_disk(tmp_path: Path) -> None:
    command = ["unshare", "-rm", sys.executable, str(SCRIPT), str(tmp_path)]
    environment = child_environment({"PYTHONPATH": str(ROOT), "ARCHWRIGHT_AUDIT_SECOND_PLACE": "none"})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
