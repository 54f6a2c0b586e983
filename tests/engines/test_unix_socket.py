from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from archwright.engines.unix_socket import claim_socket, leave_on_terminate
from archwright.errors import EngineError
from archwright.home import Home


@pytest.fixture(autouse=True)
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_stale_socket_makes_way_and_a_living_one_does_not(tmp_path: Path) -> None:
    home = Home(tmp_path)
    path = claim_socket(home, "x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(EngineError) as refused:
            claim_socket(home, "x")
    assert refused.value.code == "AW-ENG-07" and path.is_socket()
    assert claim_socket(home, "x") == path and not path.exists()


def test_what_is_made_afterwards_is_the_users_alone(tmp_path: Path) -> None:
    claim_socket(Home(tmp_path), "x")
    (tmp_path / "new").touch()
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0


def test_terminating_takes_the_socket_along(tmp_path: Path, terminate_handler: None) -> None:
    path = tmp_path / "x.sock"
    left: list[int] = []
    path.touch()
    leave_on_terminate(path, left.append)
    os.kill(os.getpid(), signal.SIGTERM)
    assert left == [0] and not path.exists()
