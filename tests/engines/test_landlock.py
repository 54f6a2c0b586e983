"""Older versions of the kernel's ABI, which a newer kernel accepts: the rights that they know still hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from archwright.engines.landlock import FileRight, FileRule, restrict_files
from archwright.engines.process_restrictions import gain_no_privileges
folder, version = Path(sys.argv[1]), int(sys.argv[2])
gain_no_privileges()
rules = [FileRule(folder / "open", FileRight.READ | FileRight.LIST), FileRule(folder / "missing", FileRight.READ)]
restrict_files(rules, version, tcp_refused=True)
assert (folder / "open").read_text() == "text"
try:
    (folder / "closed").read_text()
except PermissionError:
    sys.exit(0)
sys.exit("the file is readable")
"""


@pytest.mark.process
@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 9])
def test_files_are_closed_with_every_version(version: int, tmp_path: Path) -> None:
    for name in ("open", "closed"):
        (tmp_path / name).write_text("text")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(version)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
