"""A lake in a temporary home, with short forms of its use."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from archwright.contract.lineage import DatasetVersion, SourceFile
from archwright.errors import DataError
from archwright.home import Home
from archwright.lake import ingestion, recipe, refinement
from archwright.lake.tables import iceberg_tables, quarantine, source_file_list, version_index
from archwright.store import Store


class Lake:
    """`source` is the folder that `ingestion` reads; `at` is the time of its clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = Home(root / "home")
        self.store = Store(self.home.store_url)
        self.source = root / "source"
        self.source.mkdir(exist_ok=True)
        self.at = 1000.0

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def put_rows(self, name: str, rows: Iterable[object]) -> Path:
        return self.put(name, "".join(json.dumps(row) + "\n" for row in rows))

    def ingest(
        self, name: str = "docs", licence: str = "", path: Path | str | None = None, **options: Any
    ) -> ingestion.IngestResult:
        order = ingestion.IngestRequest(path or self.source, name, licence, lambda: self.at, **options)
        return ingestion.ingest_files(self.home, self.store, order)

    def ingest_rows(self, rows: Iterable[object]) -> ingestion.IngestResult:
        """Ingest the folder with these rows in a.jsonl."""
        self.put_rows("a.jsonl", rows)
        return self.ingest()

    def refine(self, steps: str, source: str = "docs", into: str = "docs-clean") -> refinement.RefineResult:
        return refinement.refine_dataset(
            self.home, self.store, refinement.RefineRequest(self.recipe(steps, source, into), now=lambda: self.at)
        )

    def recipe(self, steps: str, source: str = "docs", into: str = "docs-clean") -> recipe.Recipe:
        path = self.root / "recipe.yaml"
        path.write_text(f"from: {source}\ninto: {into}\nsteps: {steps}\n", encoding="utf-8")
        return recipe.read_recipe(path)

    def rows(self, version: DatasetVersion | str, *columns: str) -> list[dict[str, Any]]:
        """The rows in the order of files and rows; without system columns by default."""
        found = version_index.find_version(self.store, version) if isinstance(version, str) else version
        rows = [row for batch in iceberg_tables.read_batches(self.home, found) for row in batch.to_pylist()]
        rows.sort(key=lambda row: (row["source_file"], row["source_row"]))
        names = columns or [name for name in found.columns if name not in ("record_id", "source_file", "source_row")]
        return [{name: row[name] for name in names} for row in rows]

    def files(self, version: DatasetVersion) -> tuple[SourceFile, ...]:
        return source_file_list.read_source_files(self.home, version)

    def values(self, version: DatasetVersion | str, column: str) -> list[Any]:
        return [row[column] for row in self.rows(version, column)]

    def quarantined(self, version: DatasetVersion) -> list[tuple[str, int, str]]:
        path = quarantine.quarantine_path(self.home, version.dataset, version.version)
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [(row["file"], row["row"], row["reason"]) for row in found]

    def data_files(self) -> set[Path]:
        return set((self.home.lake / "tables").rglob("*.parquet"))


def code(error: BaseException) -> str:
    assert isinstance(error, DataError)
    assert error.hint
    return error.code
