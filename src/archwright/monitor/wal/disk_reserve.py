"""Disk reserve: allocated bytes in the home that an act of administration frees on a full disk.

Design: a gateway holds the reserve and allocates no segment that would leave less than RESERVE_BYTES free. So it stops
admissions first, and cannot take what the administration freed.
"""

import os
import shutil
from contextlib import suppress

from archwright.home import Home
from archwright.monitor.wal.segments import allocate_bytes

RESERVE_BYTES = 16 << 20


def count_free_bytes(home: Home) -> int:
    return shutil.disk_usage(home.folder()).free


def hold_reserve(home: Home) -> None:
    """Allocate the reserve if it is missing and the disk has four times its bytes."""
    path = home.disk_reserve
    if path.exists() or count_free_bytes(home) < 4 * RESERVE_BYTES:
        return
    with suppress(OSError):  # such as a quota; the next call tries again
        handle = os.open(home.folder("run") / path.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            allocate_bytes(handle, RESERVE_BYTES)
        except OSError:
            path.unlink()
        finally:
            os.close(handle)


def release_reserve(home: Home) -> None:
    """Free the reserve for an act of administration if the disk has less than its bytes free."""
    if count_free_bytes(home) < RESERVE_BYTES:
        home.disk_reserve.unlink(missing_ok=True)
