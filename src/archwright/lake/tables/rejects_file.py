"""Rejected rows of a draft version: one JSON line per row, in a file that appears when it is complete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from archwright.contract.record import Record


class RejectsWriter(NamedTuple):
    """Writes lines for `path`, which appears on `commit`."""

    path: Path
    file: IO[bytes]

    def write(self, row: Record) -> None:
        self.file.write(msgspec.json.encode(row) + b"\n")

    def commit(self) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self.file.name, self.path)


@contextmanager
def open_rejects_file(path: Path) -> Iterator[RejectsWriter]:
    """Open the writer of `path`; without `commit` no file remains."""
    part = path.with_suffix(".part")  # one fixed name: the next writer overwrites the file of a killed one
    with open(part, "wb") as file:
        try:
            yield RejectsWriter(path, file)
        finally:
            part.unlink(missing_ok=True)
