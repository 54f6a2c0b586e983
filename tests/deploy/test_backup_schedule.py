"""The script of the service `backup` of target compose, with a home of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyrage
import pytest
from tests.deploy.conftest import MadeBundle
from tests.tools.checks import WAIT_S, until

pytestmark = [pytest.mark.process, pytest.mark.enable_socket]
THREE_DAYS_S = 3 * 24 * 3600


class Schedule:
    """The script below a folder; `state`: what stands for the volume, `place`: the backups."""

    def __init__(self, text: str, folder: Path) -> None:
        self.state, self.place, self._log = folder / "state", folder / "place", folder / "log"
        programs = folder / "bin"
        for made in (self.state, programs):
            made.mkdir()
        program = programs / "archwright"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m archwright "$@"\n')
        program.chmod(0o755)
        self._script = folder / "schedule.sh"
        self._script.write_text(text.replace("/var/lib/archwright", str(self.state)))
        self.key = folder / "key"
        self.key.write_text(str(pyrage.x25519.Identity.generate()))
        self.key.chmod(0o600)
        self._environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "ARCHWRIGHT_HOME": str(self.state / "home"),
            "ARCHWRIGHT_BACKUP_TO": str(self.place),
            "ARCHWRIGHT_BACKUP_KEY": f"file:{self.key}",
            "ARCHWRIGHT_AUDIT_SECOND_PLACE": "none",
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """The script until it waits for the next hour."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", str(self._script)], env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until(lambda: is_asleep(process.pid))
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(WAIT_S)
            print(self._log.read_text())

    def check(self) -> int:
        return subprocess.run(["sh", str(self._script), "check"], env=self._environment).returncode

    def list_state(self) -> set[str]:
        return {path.name for path in self.state.iterdir()} - {"home"}

    def count_backups(self) -> int:
        return len(list((self.place / "backups").iterdir()))

    def make_older(self, name: str) -> None:
        before = time.time() - THREE_DAYS_S
        os.utime(self.state / name, (before, before))


def is_asleep(pid: int) -> bool:
    """True if the process waits for its child `sleep`."""
    with suppress(FileNotFoundError):  # a child that has just ended
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return any(Path(f"/proc/{child}/comm").read_text() == "sleep\n" for child in children)
    return False


@pytest.fixture
def schedule(made_bundle: MadeBundle, tmp_path: Path) -> Schedule:
    return Schedule(made_bundle("desk", "compose").files["backup/schedule.sh"].text, tmp_path)


def test_a_backup_is_made_when_the_last_one_is_old(schedule: Schedule) -> None:
    assert schedule.check() != 0
    with schedule.running():
        assert schedule.list_state() == {"backup.done", "backup-drill.done"}
        assert (schedule.count_backups(), schedule.check()) == (1, 0)
    with schedule.running():
        assert schedule.count_backups() == 1, "a restart of the service makes no backup"

    schedule.make_older("backup.done")
    assert schedule.check() != 0
    with schedule.running():
        assert (schedule.count_backups(), schedule.check()) == (2, 0)


@pytest.mark.nightly
def test_a_failed_drill_is_shown_until_one_passes(schedule: Schedule) -> None:
    with schedule.running():
        assert schedule.check() == 0
    key = schedule.key.read_text()
    (schedule.state / "backup-drill.done").unlink()
    schedule.key.write_text(str(pyrage.x25519.Identity.generate()))
    with schedule.running():
        assert schedule.list_state() == {"backup.done", "backup-drill.failed"}
        assert schedule.check() != 0
    schedule.key.write_text(key)
    with schedule.running():
        assert schedule.list_state() == {"backup.done", "backup-drill.done"}
        assert schedule.check() == 0
