"""Rows rejected at ingest: one JSON line each, stored with the version that lacks them."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.home import Home
from archwright.lake.formats.row_chunks import BrokenRow
from archwright.lake.tables.rejects_file import RejectsWriter

DELETED = "the record of it was deleted"


def quarantine_path(home: Home, dataset: str, version: int) -> Path:
    return home.folder("lake", "quarantine", dataset) / f"v{version}.jsonl"


class Quarantine:
    def __init__(self, home: Home, rejects: RejectsWriter) -> None:
        self._home = home
        self._rejects = rejects
        self.files: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def add(self, broken: BrokenRow) -> None:
        self._rejects.write(broken)
        self.files[broken.file] += 1
        self._reasons[broken.reason] += 1

    def copy_unchanged(self, previous: DatasetVersion | None, known: Iterable[SourceFile], replaced: set[str]) -> None:
        """Copy the previous quarantine of the `known` files that are not replaced, or its counts if it was deleted."""
        if previous is None:
            return
        try:
            with open(quarantine_path(self._home, previous.dataset, previous.version), "rb") as lines:
                for line in lines:
                    broken = msgspec.json.decode(line, type=BrokenRow)
                    if broken.file not in replaced:
                        self.add(broken)
        except FileNotFoundError:
            for file in known:
                if file.quarantined and file.path not in replaced:
                    self.files[file.path] += file.quarantined
                    self._reasons[DELETED] += file.quarantined

    def drops(self) -> dict[str, int]:
        return {f"quarantine: {reason}": count for reason, count in sorted(self._reasons.items())}
