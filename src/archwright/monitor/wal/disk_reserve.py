"""Disk reserve: allocated bytes in the home that acts of administration free on a full disk.

An act frees ACT_BYTES at a time. Design: a gateway makes the reserve, which outlives it, and
allocates no segment that would leave less than RESERVE_BYTES free. So it stops admissions first,
and cannot take what the administration freed. If other programs take what an act freed, later acts
still find a part of the reserve. Reading frees nothing.
"""

import os
import shutil
from contextlib import suppress

from archwright.home import Home
from archwright.monitor.wal.segments import allocate_bytes

RESERVE_BYTES = 16 << 20
ACT_BYTES = 4 << 20  # two segments of an act, and what the database grows
# A segment holds the records of one act, so that the reserve lasts for several acts.
ACT_SEGMENT_BYTES = 1 << 20


def count_free_bytes(home: Home) -> int:
    return shutil.disk_usage(home.folder()).free


def hold_reserve(home: Home) -> None:
    """Allocate the missing part of the reserve if the disk has four times its bytes."""
    if count_reserved_bytes(home) >= RESERVE_BYTES:
        return
    if count_free_bytes(home) < 4 * RESERVE_BYTES:
        return

    with suppress(OSError):  # such as a quota; the next call tries again
        path = home.folder("run") / home.disk_reserve.name
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            allocate_bytes(handle, RESERVE_BYTES)
        except OSError:
            path.unlink()
        finally:
            os.close(handle)


def release_reserve(home: Home) -> None:
    """Free a part of the reserve for an act of administration.

    Nothing is freed if the disk has half of ACT_BYTES free.
    """
    reserved_bytes = count_reserved_bytes(home)
    if reserved_bytes and count_free_bytes(home) < ACT_BYTES // 2:
        os.truncate(home.disk_reserve, max(0, reserved_bytes - ACT_BYTES))


def count_reserved_bytes(home: Home) -> int:
    try:
        return home.disk_reserve.stat().st_size
    except FileNotFoundError:
        return 0
