"""The rows that did not come along at ingest: one JSON line each, kept with the version they are missing from."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import msgspec

from archwright.contract.lineage import DatasetVersion
from archwright.home import Home
from archwright.lake.chunks import Broken


def path_of(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "quarantine", dataset) / f"v{version}.jsonl"


class Quarantine:
    """The quarantine of a version in the making; what is written counts when `close` has returned."""

    def __init__(self, home: Home, dataset: str, version: int) -> None:
        self._home = home
        self._path = path_of(home, dataset, version)
        self._part = self._path.with_suffix(".part")
        self._file = open(self._part, "wb")  # noqa: SIM115 - closed by `close`
        self._files: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def add(self, broken: Broken) -> None:
        self._file.write(msgspec.json.encode(broken) + b"\n")
        self._files[broken.file] += 1
        self._reasons[broken.reason] += 1

    def take_over(self, previous: DatasetVersion | None, replaced: set[str]) -> None:
        """Keep what the version before had quarantined of files that stay as they are."""
        if previous is None:
            return
        with open(path_of(self._home, previous.dataset, previous.version), "rb") as lines:
            for line in lines:
                broken = msgspec.json.decode(line, type=Broken)
                if broken.file not in replaced:
                    self.add(broken)

    def count(self, file: str) -> int:
        return self._files[file]

    def drops(self) -> dict[str, int]:
        return {f"quarantine: {reason}": count for reason, count in sorted(self._reasons.items())}

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self._path)
