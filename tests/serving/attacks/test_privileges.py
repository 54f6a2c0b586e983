"""The gateway's processes keep their keys, gain no privileges, and write no core dump."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..conftest import check_restricted

if TYPE_CHECKING:
    from ..conftest import Start

pytestmark = pytest.mark.enable_socket


def test_master_and_workers_are_restricted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VENDOR_KEY", "sk-1")
    platform = start([{"key": "env:VENDOR_KEY"}], [{}], workers=2)
    assert len(platform.workers) == 2
    for pid in (platform.master.pid, *platform.workers):
        check_restricted(pid)
    assert platform.chat().status == 200
