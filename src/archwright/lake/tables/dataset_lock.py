"""Locks: one writer per data set and home, no writer during an erasure. A second writer waits for the first one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from archwright.home import Home
from archwright.journal import report_step


@contextmanager
def lock_file(home: Home, name: str) -> Iterator[None]:
    """Wait for the exclusive lock of the file `name` in lake/locks, and hold it."""
    with open(home.folder("lake", "locks") / name, "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_lake(home: Home, *, shared: bool) -> Iterator[None]:
    """Wait for the lock of the whole lake: `shared` by the writers of data sets, exclusive for an erasure.

    It is a lock of a folder, so an erasure that finds nothing creates no file, not even in an empty home."""
    folder = home.root / "lake" / "locks"
    if not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def lock_dataset(home: Home, dataset: str) -> Iterator[None]:
    """Wait for the data set's lock and hold it; the kernel releases it if the process dies."""
    path = home.folder("lake", "locks") / f"{dataset}.lock"
    with lock_lake(home, shared=True), open(path, "a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            report_step(f"waiting for process {file.read()[:20]}, which writes to the data set {dataset}")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
