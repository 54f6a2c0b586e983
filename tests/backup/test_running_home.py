"""Backups of a home whose gateway serves requests meanwhile."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
from tests.serving.conftest import endpoint, free_port, null_engine, running, table

from archwright.access.audit_log import check_chain
from archwright.api import backup, restore
from archwright.home import Home
from archwright.monitor.wal.compaction import read_served
from archwright.store import Store

from ..command_line import CommandLine

pytestmark = pytest.mark.enable_socket
BACKUPS = 4


def test_every_backup_has_whole_records_of_all_requests_before_it(
    home: Home, cli: CommandLine, place: Path, tmp_path: Path, processes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home, table(endpoint(), port=free_port()), null_engine()) as platform:
        stopping = threading.Event()
        answered: list[int] = []

        def send_requests() -> None:
            while not stopping.is_set():
                answered.append(platform.chat().status)

        sender = threading.Thread(target=send_requests)
        sender.start()
        before: dict[str, int] = {}
        for _ in range(BACKUPS):
            count = len(answered)
            before[backup().id] = count  # type: ignore[union-attr]
        stopping.set()
        sender.join()
    assert set(answered) == {200}

    for number, (made, count) in enumerate(before.items()):
        other = Home(tmp_path / f"restored{number}")
        restore(made, into=str(other.root))
        with closing(Store(other.store_url)) as store:
            assert check_chain(store, other).broken is None
            assert len(list(read_served(store, other))) >= count
        monkeypatch.setenv("ARCHWRIGHT_HOME", str(other.root))
        assert cli.json("audit verify")["whole"]
