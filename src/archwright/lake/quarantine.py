"""The rows that did not come along at ingest: one JSON line each, kept with the version they are missing from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from archwright.contract.lineage import DatasetVersion
from archwright.home import Home
from archwright.lake.rejects_file import RejectsWriter
from archwright.lake.row_chunks import BrokenRow

DELETED = "the record of it was deleted"


def quarantine_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "quarantine", dataset) / f"v{version}.jsonl"


class Quarantine:
    """The quarantine of a version in the making, counted by file and by reason."""

    def __init__(self, home: Home, aside: RejectsWriter) -> None:
        self._home = home
        self._aside = aside
        self._files: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def add(self, broken: BrokenRow) -> None:
        self._aside.write(broken)
        self._files[broken.file] += 1
        self._reasons[broken.reason] += 1

    def copy_unchanged(self, previous: DatasetVersion | None, replaced: set[str]) -> None:
        """Keep what the version before had quarantined of files that stay as they are; of a quarantine that somebody
        deleted (it holds excerpts) the counts."""
        if previous is None:
            return
        try:
            with open(quarantine_path(self._home, previous.dataset, previous.version), "rb") as lines:
                for line in lines:
                    broken = msgspec.json.decode(line, type=BrokenRow)
                    if broken.file not in replaced:
                        self.add(broken)
        except FileNotFoundError:
            for file in previous.files:
                if file.quarantined and file.path not in replaced:
                    self._files[file.path] += file.quarantined
                    self._reasons[DELETED] += file.quarantined

    def count(self, file: str) -> int:
        return self._files[file]

    def drops(self) -> dict[str, int]:
        return {f"quarantine: {reason}": count for reason, count in sorted(self._reasons.items())}
