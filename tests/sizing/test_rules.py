"""docs/rules.md is what the catalog and the predictor say today; most published runs lie in their band."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.process
def test_the_page_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "bench.sizing.rules"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert made == page, "run `python -m bench.sizing.rules -o docs/rules.md`"
    found = re.search(r"(\d+) of (\d+) published figures", page)
    assert found is not None
    inside, count = (int(part) for part in found.groups())
    assert count >= 10
    assert inside >= 0.8 * count
