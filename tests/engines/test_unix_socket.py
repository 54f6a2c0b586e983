from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from archwright.engines.unix_socket import claim_socket, leave_on_terminate
from archwright.home import Home

from ..tools.checks import refuses


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_stale_socket_makes_way_a_living_one_does_not_and_new_files_are_the_users_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = claim_socket(home, "x")
    (tmp_path / "new").touch()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with refuses("AW-ENG-07"):
            claim_socket(home, "x")
    assert path.is_socket()
    assert claim_socket(home, "x") == path and not path.exists()


def test_terminating_takes_the_socket_along(tmp_path: Path, terminate_handler: None) -> None:
    path = tmp_path / "x.sock"
    left: list[int] = []
    path.touch()
    woken = leave_on_terminate(path, left.append)
    os.kill(os.getpid(), signal.SIGTERM)
    assert left == [0] and not path.exists()
    assert select.select([woken], [], [], 0)[0] == [woken], "a wait that begins after the signal does not sleep"
