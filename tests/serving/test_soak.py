"""Two minutes of what bench/gateway/soak.py does for an hour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 1200


@pytest.mark.nightly
def test_nothing_grows_and_the_bill_is_what_was_answered(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gateway.soak", "--minutes", "2", "--rate", "50", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
