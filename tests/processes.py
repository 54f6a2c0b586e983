"""Find and end the processes that a test started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .tools.checks import WAIT_S, Patience


def naming(folder: Path, part: str = "") -> dict[int, str]:
    """Return the command lines, by process id, of processes that name the folder in their command line or environment
    and have `part` in their command line."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
            if os.fsencode(folder) in line + b"\0" + (place / "environ").read_bytes():
                found[int(place.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has left, or is not ours
    return {pid: command for pid, command in found.items() if part in command and pid != os.getpid()}


def killed(folder: Path, command: str = "", within_s: float = WAIT_S) -> list[str]:
    """Wait for the processes that name the folder (and `command`) to end; kill and return the others.

    Ray's agents check only now and then whether their node still runs.
    """
    patience = Patience(within_s)
    while (found := naming(folder, command)) and not patience.is_over():
        time.sleep(0.1)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    return list(found.values())
