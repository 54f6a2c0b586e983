"""Messages to a service manager: an engine is ready when it answers, and alive as long as it answers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.tools.checks import until

from archwright import settings
from archwright.engines.service_notification import ServiceNotifier, report_engine_health


class Manager:
    """The socket of a service manager."""

    def __init__(self, path: Path) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(str(path))
        self.channel.setblocking(False)
        self.heard: list[bytes] = []

    def read(self) -> list[bytes]:
        with suppress(BlockingIOError):
            while message := self.channel.recv(100):
                self.heard.append(message)
        return self.heard


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "90000")
    made = Manager(tmp_path / "notify")
    yield made
    made.channel.close()


def test_no_manager_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = ServiceNotifier()
    notifier.send("READY=1")
    report_engine_health(Path("/missing"))
    assert not notifier.is_managed and "service-notification" not in [one.name for one in threading.enumerate()]


def test_the_watchdog_of_another_process_is_not_ours(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    assert settings.read_service_manager()[1] == 0
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert settings.read_service_manager()[1] == pytest.approx(0.09)


def test_a_sign_of_life_is_sent_when_it_is_due(manager: Manager) -> None:
    notifier = ServiceNotifier()
    notifier.send("READY=1")
    for _ in range(3):
        notifier.keep_alive()
    assert manager.read() == [b"READY=1", b"WATCHDOG=1"]


def test_a_program_that_replaces_itself_may_be_silent_for_longer(manager: Manager) -> None:
    notifier = ServiceNotifier()
    notifier.allow_silence(120)
    notifier.report_ready()
    assert manager.read() == [b"WATCHDOG_USEC=120000000\nWATCHDOG=1", b"READY=1", b"WATCHDOG_USEC=90000\nWATCHDOG=1"]


def test_an_engine_is_ready_when_it_answers_and_silent_when_it_does_not(manager: Manager, tmp_path: Path) -> None:
    answers = [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "e.sock"))
        engine.listen()

        def answer() -> None:
            for one in answers:
                connection, _ = engine.accept()
                with connection:
                    connection.recv(200)
                    connection.sendall(one)

        thread = threading.Thread(target=answer)
        thread.start()
        report_engine_health(tmp_path / "e.sock")
        until(lambda: manager.read() == [b"READY=1", b"WATCHDOG=1"])
        thread.join()
    assert manager.read() == [b"READY=1", b"WATCHDOG=1"], "it does not answer any more"
