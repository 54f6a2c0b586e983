"""Registry of the workers that write to a shared table, with a liveness check.

A worker is identified by process id and start time, because process ids are reused. A worker in
another PID namespace (a container on the same home) cannot be inspected and counts as alive.
"""

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
    """Return the start of `pid` in ticks since boot (0 without /proc).

    None if it has ended or is a zombie.
    """
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        if (proc / "self").exists():
            return None
        try:
            with suppress(PermissionError):
                os.kill(pid, 0)
        except ProcessLookupError:
            return None
        return 0
    # The process name may contain brackets and blanks.
    after_name = stat.rindex(b")") + 2
    fields = stat[after_name:].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def register_worker(transaction: Transaction) -> int:
    """Return a new, unique number for this process and remove the rows of dead workers."""
    dead: list[bytes] = []
    with transaction.cursor() as cursor:
        has_entry = cursor.set_range(_WORKER_PREFIX)
        while has_entry and cursor.key().startswith(_WORKER_PREFIX):
            if not _is_alive(cursor.value()):
                dead.append(cursor.key())
            has_entry = cursor.next()
    for key in dead:
        transaction.delete(key)

    (last_number,) = _NUMBER.unpack(transaction.get(_LAST_NUMBER_KEY) or b"\0\0\0\0")
    number = int(last_number) + 1
    transaction.put(_LAST_NUMBER_KEY, _NUMBER.pack(number))
    pid = os.getpid()
    identity = _IDENTITY.pack(_read_pid_namespace(), pid, read_process_start(pid) or 0)
    transaction.put(_WORKER_PREFIX + _NUMBER.pack(number), identity)
    return number


def is_worker_alive(transaction: Transaction, number: int) -> bool:
    identity = transaction.get(_WORKER_PREFIX + _NUMBER.pack(number))
    return identity is not None and _is_alive(identity)


def _is_alive(identity: bytes) -> bool:
    namespace, pid, start = _IDENTITY.unpack(identity)
    if int(namespace) != _read_pid_namespace():
        return True
    return read_process_start(int(pid)) == int(start)


def _read_pid_namespace() -> int:
    try:
        return (_PROC / "self" / "ns" / "pid").stat().st_ino
    except OSError:
        return 0
