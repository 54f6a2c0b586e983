"""The rows of a person in all tables: rows that name the person, and rows that descend from them.

Every Parquet file below `lake/tables` is searched, also files that no version names any more. A row descends from
another if it has its record id, as refined rows do, or names it as `parent_id`, as chunks do.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from archwright.home import Home
from archwright.lake.erasure.file_scan import NUMBER_COLUMNS
from archwright.lake.erasure.subject import Subject
from archwright.lake.lazy_modules import pa, pc, pq

ID_COLUMNS = ("record_id", "parent_id")
BATCH_ROWS = 8192


def list_table_files(home: Home, *, complete: bool = True) -> list[Path]:
    """The Parquet files of all tables; not `complete`: those that a killed writer left, without their end."""
    found = sorted((home.lake / "tables").rglob("*.parquet"))
    return [path for path in found if is_complete(path) == complete]


def is_complete(path: Path) -> bool:
    """True if a Parquet file has its end, or is missing."""
    if not path.exists():
        return True
    with open(path, "rb") as file:
        file.seek(max(4, path.stat().st_size - 4))  # behind the beginning, which is equal
        return file.read() == b"PAR1"


def find_record_ids(home: Home, subject: Subject) -> frozenset[bytes]:
    """Return the ids of the rows that name the person, and of all their descendants."""
    found: set[bytes] = set()
    with_parents = []
    for path in list_table_files(home):
        names = pq.read_schema(path).names
        with_parents += [path] * ("parent_id" in names)
        columns = [name for name in names if name not in (*ID_COLUMNS, *NUMBER_COLUMNS)]
        for batch in _read_batches(path, ["record_id", *columns]):
            hits = subject.match_rows(batch.select(columns))
            found.update(batch.column("record_id").filter(hits).to_pylist())
    known = -1
    while with_parents and len(found) > known:
        known = len(found)
        for path in with_parents:
            for batch in _read_batches(path, list(ID_COLUMNS)):
                below = match_ids(batch.column("parent_id"), found)
                found.update(batch.column("record_id").filter(below).to_pylist())
    return frozenset(found)


def _read_batches(path: Path, columns: list[str]) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


def match_ids(values: Any, ids: frozenset[bytes] | set[bytes]) -> Any:
    """Return the mask of the values of an Arrow array that are among the ids."""
    return pc.fill_null(pc.is_in(values, value_set=pa.array(sorted(ids), values.type)), False)


def match_erased(batch: Any, subject: Subject) -> Any:
    """Return the mask of the rows that are, or descend from, the person's."""
    mask = match_ids(batch.column("record_id"), subject.record_ids)
    if "parent_id" in batch.schema.names:
        mask = pc.or_(mask, match_ids(batch.column("parent_id"), subject.record_ids))
    return mask


def count_erased(home: Home, subject: Subject) -> Counter[Path]:
    """Count the person's rows in each file that has any."""
    found: Counter[Path] = Counter()
    for path in list_table_files(home) if subject.record_ids else ():
        names = [name for name in ID_COLUMNS if name in pq.read_schema(path).names]
        count = sum(match_erased(batch, subject).true_count for batch in _read_batches(path, names))
        if count:
            found[path] = count
    return found


def drop_erased(batch: Any, subject: Subject) -> Any:
    return batch.filter(pc.invert(match_erased(batch, subject)))
