"""Access export: every row that names a person, as JSON lines, with a summary."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from archwright.contract.lineage import DatasetVersion
from archwright.contract.record import Record
from archwright.errors import DataError, ErrorLocation
from archwright.home import Home, open_private, write_json
from archwright.lake.formats.row_chunks import BrokenRow
from archwright.lake.governance.subject_search import SubjectMatcher, SubjectRow, find_subject_rows
from archwright.lake.lazy_modules import pa
from archwright.lake.tables.quarantine import quarantine_path

EXCERPT = "excerpt"  # the one column of a row in quarantine


class SubjectExport(Record):
    """Counts of exported rows by version; `searched` are all versions that were read."""

    path: str
    at: float
    rows: int
    versions: dict[str, int]
    searched: tuple[str, ...]


def export_subject(
    home: Home, identifiers: Sequence[str], versions: Sequence[DatasetVersion], folder: Path, at: float
) -> SubjectExport:
    """Write rows.jsonl and summary.json into `folder`. Raises DataError AW-DATA-52 if no row names the person."""
    rows, part, counts = folder / "rows.jsonl", folder / "rows.jsonl.part", Counter[str]()
    folder.mkdir(parents=True, exist_ok=True)
    with open_private(part, "wb") as file:
        for row in _list_rows(home, identifiers, versions):
            file.write(msgspec.json.encode({**row._asdict(), "record_id": row.record_id.hex()}) + b"\n")
            counts[row.version] += 1
    if not counts:
        part.unlink()
        message = f"no row of {len(versions)} versions names this person"
        hint = "try other identifiers, such as a telephone number or a customer number, or --all-versions"
        raise DataError("AW-DATA-52", message, where=ErrorLocation(field="subject"), hint=hint)
    part.replace(rows)
    searched = tuple(version.id for version in versions)
    made = SubjectExport(path=str(rows), at=at, rows=counts.total(), versions=dict(counts), searched=searched)
    write_json(folder / "summary.json", made)
    return made


def _list_rows(home: Home, identifiers: Sequence[str], versions: Sequence[DatasetVersion]) -> Iterator[SubjectRow]:
    yield from find_subject_rows(home, identifiers, versions)
    matcher = SubjectMatcher(identifiers)
    for version in versions:
        path = quarantine_path(home, version.dataset, version.version)
        broken = msgspec.json.Decoder(BrokenRow).decode_lines(path.read_bytes()) if path.is_file() else []
        mask = matcher.match_array(pa.array([row.excerpt for row in broken], pa.large_string())).to_pylist()
        for row in (row for row, found in zip(broken, mask, strict=True) if found):
            yield SubjectRow(version.dataset, version.id, row.file, row.row, b"", (EXCERPT,), {EXCERPT: row.excerpt})
