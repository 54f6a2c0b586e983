"""Other engines read the tables: the same rows as ours, by the hash of each row."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archwright.contract.lineage import DatasetVersion
from archwright.lake.tables import data_files, iceberg_tables, version_index
from archwright.lake.tables.table_rewriting import drop_versions

from ..temporary_lake import Lake

Read = Callable[[Lake, DatasetVersion], pa.Table]


def hash_rows(tables: Iterable[Any], columns: Iterable[str]) -> list[str]:
    """Sorted hashes of the rows; times as microseconds, so the form of a time zone does not count."""
    found = []
    for table in tables:
        names = list(columns)
        for row in table.select(names).to_pylist():
            values = [value.timestamp() if hasattr(value, "timestamp") else value for value in row.values()]
            found.append(hashlib.sha256(repr(values).encode()).hexdigest())
    return sorted(found)


def paths_of(lake: Lake, version: DatasetVersion) -> list[str]:
    return [str(path) for path in iceberg_tables.list_data_files(lake.home, version)]


def read_pyarrow(lake: Lake, version: DatasetVersion) -> pa.Table:
    tables = [pq.read_table(path) for path in paths_of(lake, version)]
    return pa.concat_tables(tables, promote_options="default")


def read_pyiceberg(lake: Lake, version: DatasetVersion) -> pa.Table:
    table = iceberg_tables.load_table(lake.home, version.dataset)
    assert table is not None
    return table.scan(snapshot_id=table.refs()[f"v{version.version}"].snapshot_id).to_arrow()


def read_duckdb(lake: Lake, version: DatasetVersion) -> pa.Table:
    """By the paths of the data files: DuckDB's extension for Iceberg is not part of its package."""
    import duckdb  # noqa: PLC0415

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.sql("FROM read_parquet(?, union_by_name = true)", params=[paths_of(lake, version)])
        return rows.to_arrow_table()


def read_polars(lake: Lake, version: DatasetVersion) -> pa.Table:
    import polars  # noqa: PLC0415

    frames = [polars.read_parquet(path) for path in paths_of(lake, version)]
    return polars.concat(frames, how="diagonal").to_arrow()


def read_polars_iceberg(lake: Lake, version: DatasetVersion) -> pa.Table:
    import polars  # noqa: PLC0415

    table = iceberg_tables.load_table(lake.home, version.dataset)
    assert table is not None
    snapshot = table.refs()[f"v{version.version}"].snapshot_id
    return polars.scan_iceberg(table, snapshot_id=snapshot, reader_override="native").collect().to_arrow()


READERS: list[Read] = [read_pyarrow, read_pyiceberg, read_duckdb, read_polars, read_polars_iceberg]


def fill(lake: Lake) -> list[DatasetVersion]:
    """Three versions with columns of all sorts, nulls, a new column, replaced rows; the first is dropped at the end."""
    drawn = random.Random(1)
    rows = [
        {
            "text": "".join(drawn.choices("abc äß😀\n\"'", k=drawn.randrange(40))),
            "n": drawn.randrange(-(2**53), 2**53) if number % 5 else None,
            "x": drawn.random() * 10.0 ** drawn.randrange(-300, 300),
            "yes": drawn.random() < 0.5,
            "at": f"2026-01-02T03:04:{number % 60:02d}.{drawn.randrange(10**6):06d}Z",
            "day": f"2026-{1 + number % 12:02d}-03",
            "tree": {"a": [number, None]},
        }
        for number in range(3000)
    ]
    lake.put_rows("a.jsonl", rows[:2000])
    lake.put_rows("b.jsonl", rows[2000:])
    lake.ingest()
    lake.put_rows("c.jsonl", [{"more": "x", **row} for row in rows[:10]])
    lake.ingest()
    lake.put_rows("b.jsonl", rows[:500])
    lake.ingest()
    drop_versions(lake.home, lake.store, "docs", [1], at=1.0)
    return [version for version in version_index.list_versions(lake.store) if version.dropped_at is None]


@pytest.mark.nightly
def test_engines_read_equal_rows(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "FILE_BYTES", 100_000)
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # its other planner is another package
    for version in fill(lake):
        ours = hash_rows(iceberg_tables.read_batches(lake.home, version), version.columns)
        assert len(ours) == version.rows
        for read in READERS:
            assert hash_rows([read(lake, version)], version.columns) == ours, read.__name__
