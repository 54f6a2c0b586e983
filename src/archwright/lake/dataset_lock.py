"""One writer of a data set at a time, over all processes of a home.

Refused at once rather than waited for: an ingest may take hours, and who typed the second one should know.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from archwright.errors import DataError, ErrorLocation
from archwright.home import Home


@contextmanager
def lock_catalog(home: Home) -> Iterator[None]:
    """Waits for the moment in which the catalog is opened, and made when it is not there: two at once would clash."""
    with open(home.folder("lake", "locks") / "catalog", "a", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_dataset(home: Home, dataset: str) -> Iterator[None]:
    """Hold the data set's lock; the system lets go of it when the process dies. Raises DataError AW-DATA-12."""
    path = home.folder("lake", "locks") / f"{dataset}.lock"
    with open(path, "a", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                "AW-DATA-12",
                f"another process is writing to the data set {dataset!r}",
                where=ErrorLocation(field=dataset),
                hint="wait until it has ended, then run this again; nothing was changed",
            ) from error
        yield
