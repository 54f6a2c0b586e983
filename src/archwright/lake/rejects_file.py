"""Rows written aside while a version is made: one JSON line each, in a file that exists when it is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from archwright.contract.record import Record


class RejectsWriter:
    """Lines for `path`, which appears when `keep` is called."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file

    def write(self, row: Record) -> None:
        self._file.write(msgspec.json.encode(row) + b"\n")

    def commit(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._file.name, self._path)


@contextmanager
def open_rejects_file(path: Path) -> Iterator[RejectsWriter]:
    """Left without `keep`, nothing stays."""
    part = path.with_suffix(".part")  # one name, so that a killed writer's is written over
    with open(part, "wb") as file:
        try:
            yield RejectsWriter(path, file)
        finally:
            part.unlink(missing_ok=True)
