"""Logs of running processes: bounded, of whole lines, private."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tools.checks import until

from archwright.home import Home
from archwright.operate import log_rotation
from archwright.operate.log_rotation import OLD_LOGS, rotate_logs

from .conftest import Stage

# It waits at three limits of bytes: on a busy machine it would else have written everything before the next rotation.
WRITER = """
import os, sys, time
limit = 3 * int(sys.argv[3])
for number in range(int(sys.argv[1])):
    while os.fstat(2).st_size > limit:
        time.sleep(0.001)
    os.write(2, b"%08d of a process that writes as fast as it can\\n" % number)
    if sys.argv[2] != '0.0':
        time.sleep(float(sys.argv[2]))
"""


@pytest.mark.process
@pytest.mark.parametrize(("numbers", "pause_s", "lost_share"), [(100_000, 0.0, 0.5), (5_000, 5e-5, 0.02)])
def test_a_process_that_writes_fast_fills_no_disk(home: Home, numbers: int, pause_s: float, lost_share: float) -> None:
    """Only lines of the moment between copy and truncation are lost: some for a process that writes without pause."""
    folder, seen, limit = home.folder("logs"), set[int](), numbers * 5
    before = os.umask(0)
    try:
        with (
            home.open_log("engine") as log,
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(numbers), str(pause_s), str(limit)], stderr=log
            ) as writer,
        ):
            rotations, largest = 0, 0
            while writer.poll() is None or (folder / "engine.log").stat().st_size >= limit:
                if (folder / "engine.log").stat().st_size >= limit:
                    rotate_logs(folder, limit)
                    rotations += 1
                    seen |= lines_of(folder / "engine.log.1")
                largest = max(largest, sum(path.stat().st_size for path in folder.iterdir()))
                time.sleep(0.002)
    finally:
        os.umask(before)
    seen |= lines_of(folder / "engine.log")
    assert rotations > OLD_LOGS
    assert {path.name for path in folder.iterdir()} == {"engine.log", *(f"engine.log.{n + 1}" for n in range(OLD_LOGS))}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert largest < numbers * 56 * 0.8
    assert len(seen) >= numbers * (1 - lost_share)


def lines_of(log: Path) -> set[int]:
    """The numbers of the lines, each of which must be whole."""
    lines = log.read_bytes().split(b"\n")
    assert lines.pop() == b"", "the last line is whole"
    assert all(line.endswith(b" of a process that writes as fast as it can") for line in lines)
    return {int(line[:8]) for line in lines}


def test_a_full_disk_keeps_the_log_and_the_old_logs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home.folder("logs")
    (folder / "a.log").write_bytes(b"new\n" * 100)
    (folder / "a.log.1").write_bytes(b"old\n")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "sendfile", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            rotate_logs(folder, 100)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {"a.log": 400, "a.log.1": 4}


@pytest.mark.enable_socket
def test_the_logs_of_a_running_platform_rotate(stage: Stage) -> None:
    """Also its supervisor's own log, with `--detach`."""
    stage.up()
    for name in ("supervisor", "gateway", "engine-assistant"):
        with stage.home.open_log(name) as log:
            log.write(b"x" * 99 + b"\n")
            log.truncate(log_rotation.LOG_LIMIT_BYTES - 100)  # sparse: as large, and written at once
            log.write(b"y" * 99 + b"\n")
    until(lambda: all(log.stat().st_size < 1e6 for log in stage.home.folder("logs").glob("*.log")))
    rotated = {f"{name}.log.1" for name in ("supervisor", "gateway", "engine-assistant")}
    until(lambda: {old.name for old in stage.home.folder("logs").glob("*.log.1")} == rotated)
    os.kill(stage.pids()["gateway"], 9)
    until(lambda: "process.died" in stage.log("supervisor"))
    entry = json.loads(stage.log("supervisor").splitlines()[0])
    assert entry["name"] == "gateway", "it is written to the new log from its start"
