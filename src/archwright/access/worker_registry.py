"""Which worker wrote an entry of a shared table, and whether it still lives.

A worker is its process id and when that process started: ids are given again, but not with the same start. One of
another process namespace (a container on the same home) cannot be looked at and counts as living.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

from archwright.monitor.shared_table import Transaction

_NUMBER = struct.Struct("<I")
_IDENTITY = struct.Struct("<3q")
_WORKER_PREFIX = b"w"
_LAST_NUMBER_KEY = b"n"
_PROC = Path("/proc")


def read_process_start(pid: int, proc: Path = _PROC) -> int | None:
    """Start of `pid` in ticks since the boot (0 without /proc); None when it is gone or a zombie."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None if (proc / "self").exists() else _probe_process(pid)
    fields = stat[stat.rindex(b")") + 2 :].split()  # a name may hold anything, brackets and blanks too
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def _probe_process(pid: int) -> int | None:
    try:
        with suppress(PermissionError):
            os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return 0


def register_worker(transaction: Transaction) -> int:
    """A number for this process, never given before on this slate; rows of the dead are removed."""
    dead = []
    with transaction.cursor() as cursor:
        found = cursor.set_range(_WORKER_PREFIX)
        while found and cursor.key().startswith(_WORKER_PREFIX):
            if not _is_alive(cursor.value()):
                dead.append(cursor.key())
            found = cursor.next()
    for key in dead:
        transaction.delete(key)
    number = _NUMBER.unpack(transaction.get(_LAST_NUMBER_KEY) or b"\0\0\0\0")[0] + 1
    transaction.put(_LAST_NUMBER_KEY, _NUMBER.pack(number))
    identity = _IDENTITY.pack(_read_pid_namespace(), os.getpid(), read_process_start(os.getpid()) or 0)
    transaction.put(_WORKER_PREFIX + _NUMBER.pack(number), identity)
    return int(number)


def is_worker_alive(transaction: Transaction, number: int) -> bool:
    who = transaction.get(_WORKER_PREFIX + _NUMBER.pack(number))
    return who is not None and _is_alive(who)


def _is_alive(who: bytes) -> bool:
    namespace, pid, start = _IDENTITY.unpack(who)
    return int(namespace) != _read_pid_namespace() or read_process_start(int(pid)) == int(start)


def _read_pid_namespace() -> int:
    try:
        return (_PROC / "self" / "ns" / "pid").stat().st_ino
    except OSError:
        return 0
