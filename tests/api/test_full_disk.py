"""Reading works although no file can grow: a limit on file sizes has the effect of a full disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from archwright import api
from archwright.home import Home

READ = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from archwright import api
for _ in range(2):
    print(*(key.id for key in api.key.list()), api.audit.verify().whole, api.audit.list()[0].action)
"""


@pytest.mark.process
def test_keys_and_audit_log_are_read_although_no_byte_can_be_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    made = api.key.create(tenant="acme")
    api.key.list()  # a gateway makes the tables that this reads
    done = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{made.id} True key.list"] * 2, done.stderr
    assert not home.disk_reserve.exists()
