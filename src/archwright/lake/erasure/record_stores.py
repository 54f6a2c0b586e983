"""The stores of records that may name a person: names of users, the database, shared tables, logs.

The audit log and the usage records name users by ids (`monitor.user_names`): erasing the name erases the person there.
The audit log is signed, so it is never rewritten: names in records of older versions remain, as the receipt says.
"""

import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from archwright.access import tables as access_tables
from archwright.access.api_keys import load_pepper, renew_signatures
from archwright.access.audit_checkpoints import load_signing_key, sign_correction
from archwright.access.audit_log import AUDIT_STREAM
from archwright.access.signed_rows import append_signed
from archwright.contract.record import Record, as_dict, replace
from archwright.lake.erasure.file_scan import count_decoded
from archwright.lake.erasure.lake_stores import ErasableStore
from archwright.lake.erasure.receipt import FoundPlace
from archwright.lake.erasure.subject import MASK
from archwright.lake.lazy_modules import pa
from archwright.lake.tables.version_index import VERSIONS
from archwright.monitor.shared_table import read_table_entries
from archwright.monitor.user_names import USER_NAMES, UserName
from archwright.monitor.wal.compaction import BLOCKS, RecordBlock, compact_orphans
from archwright.monitor.wal.segments import DATA_START, SEGMENT_SUFFIX, read_batches
from archwright.store import read_sqlite_cells

R = TypeVar("R", bound=Record)
AUDIT_TABLE = BLOCKS[AUDIT_STREAM].name
# The audit log is not rewritten, names have a store of their own, and the lake updates the records of versions.
OTHER_TABLES = {AUDIT_TABLE, USER_NAMES.name, VERSIONS.name}
SIGNED_NAMES = {table.name for table in access_tables.SIGNED_TABLES}
SQLITE_MAGIC, LMDB_SUFFIX = b"SQLite format 3\0", ".lmdb"
PIECE_VALUES = 4096
LOG_LINE_BYTES = 1 << 20


class UserNameStore(ErasableStore):
    """The names of users, and their keys. A key of an erased user is revoked."""

    name = "users"

    def find(self) -> Iterator[FoundPlace]:
        names = self._list_names()
        if names:
            yield FoundPlace(store=self.name, place="names of users", count=len(names))

    def erase(self) -> None:
        store = self._scope.store
        for one in self._list_names():
            keys = {row.id for row in store.rows(access_tables.KEYS, {"tenant": one.tenant, "user": one.id})}
            left = sorted(keys - {row.key_id for row in store.rows(access_tables.REVOCATIONS)})
            if left:
                revoked = [access_tables.Revocation(key_id=key, at=time.time()) for key in left]
                pepper = load_pepper(self._scope.home, store)
                append_signed(store, pepper, access_tables.REVOCATIONS, *revoked)
            store.remove(USER_NAMES, {"tenant": one.tenant, "name": one.name})

    def _list_names(self) -> list[UserName]:
        subject = self._scope.subject
        return [row for row in self._scope.store.rows(USER_NAMES) if subject.match_text(row.name)]


class DatabaseStore(ErasableStore):
    """Every table of the database but the audit log; the records of versions belong to the stores of the lake."""

    name = "database"

    def find(self) -> Iterator[FoundPlace]:
        counts: dict[str, int] = {}
        for table, _column, value in self._scope.store.read_cells():
            if table in OTHER_TABLES:
                continue
            found = sum(map(self._scope.subject.match_text, _list_texts(value)))
            if found:
                counts[table] = counts.get(table, 0) + found
        for table, count in sorted(counts.items()):
            yield FoundPlace(store=self.name, place=table, count=count)

    def erase(self) -> None:
        store = self._scope.store
        compact_orphans(store, self._scope.home)
        store.revise_texts(self._mask, OTHER_TABLES | SIGNED_NAMES)
        if any(place.place in SIGNED_NAMES for place in self.find()):
            renew_signatures(self._scope.home, store, self._mask_row)
        for table in (one for one in BLOCKS.values() if one.name != AUDIT_TABLE):
            store.revise(table, self._mask_block)

    def _mask_row(self, row: R) -> R:
        texts = {name: value for name, value in as_dict(row).items() if isinstance(value, str)}
        return replace(row, **{name: self._mask(text) for name, text in texts.items()})

    def _mask(self, text: str) -> str:
        """The text without the person; in JSON only the values that name the person are replaced."""
        if not self._scope.subject.match_text(text):
            return text
        try:
            return msgspec.json.encode(self._mask_values(msgspec.json.decode(text))).decode()
        except msgspec.MsgspecError:
            return MASK

    def _mask_values(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self._mask_values(name): self._mask_values(one) for name, one in value.items()}
        if isinstance(value, list):
            return [*map(self._mask_values, value)]
        named = isinstance(value, str) and self._scope.subject.match_text(value)
        return MASK if named else value

    def _mask_block(self, block: RecordBlock) -> RecordBlock:
        lines = zlib.decompress(block.data).decode().split("\n")
        masked = [*map(self._mask, lines)]
        if masked == lines:
            return block
        return sign_correction(block, zlib.compress("\n".join(masked).encode()), load_signing_key(self._scope.home))


class SharedTableStore(ErasableStore):
    """Responses that the gateway cached. A removed file is made anew; workers notice within seconds."""

    name = "cached responses"

    def find(self) -> Iterator[FoundPlace]:
        for path in self._list_files():
            count = self._scope.subject.find_raw(path.read_bytes(), decoded=False)
            if count:
                yield FoundPlace(store=self.name, place=path.name.partition("-")[0], count=count)

    def erase(self) -> None:
        """Remove every cache of responses: a long response is stored in pieces, which may cut a name."""
        for path in self._list_files():
            cached = path.name.startswith("cache-")
            if cached or self._scope.subject.find_raw(path.read_bytes(), decoded=False):
                path.unlink(missing_ok=True)
                Path(f"{path}-lock").unlink(missing_ok=True)

    def _list_files(self) -> list[Path]:
        return sorted(self._scope.home.shared_tables.glob(f"*{LMDB_SUFFIX}"))


class LogStore(ErasableStore):
    """Log files of processes. A name is overwritten in place, since a process may be writing to the end."""

    name = "logs"

    def find(self) -> Iterator[FoundPlace]:
        for path in self._list_files():
            count = sum(1 for _place in self._find_lines(path))
            if count:
                yield FoundPlace(store=self.name, place=self._scope.subject.mask_path(path.name), count=count)

    def erase(self) -> None:
        for path in self._list_files():
            lines = [*self._find_lines(path)]
            with open(path, "r+b") as file:
                for start, line in lines:
                    file.seek(start)
                    file.write(b"*" * len(line))

    def _list_files(self) -> list[Path]:
        return sorted(path for path in self._scope.home.folder("logs").rglob("*") if path.is_file())

    def _find_lines(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of each line that names the person, without its line end."""
        start = 0
        with open(path, "rb") as file:
            while line := file.readline(LOG_LINE_BYTES):
                if self._scope.subject.match_text(line.decode(errors="replace")):
                    yield start, line.rstrip(b"\n")
                start += len(line)


class BatchFileStore(ErasableStore):
    """Files and batches of the gateway's clients. A file that names the person is deleted with its results."""

    name = "batches"

    def find(self) -> Iterator[FoundPlace]:
        for path, count in self._list_files():
            place = self._scope.subject.mask_path(path.relative_to(self._scope.home.batches).as_posix())
            yield FoundPlace(store=self.name, place=place, count=count)

    def erase(self) -> None:
        for path, _count in [*self._list_files()]:
            for part in path.parent.glob(f"{path.stem}.*"):
                part.unlink()

    def _list_files(self) -> Iterator[tuple[Path, int]]:
        subject = self._scope.subject
        for path in sorted(self._scope.home.batches.glob("*/*")):
            count = (count_decoded(path, subject) or 0) + subject.find_raw(path.read_bytes(), decoded=True)
            if count:
                yield path, count


RECORD_STORES = (UserNameStore, DatabaseStore, SharedTableStore, LogStore, BatchFileStore)


def _list_texts(value: object) -> list[str]:
    """The lines of a cell; a block of records is decompressed."""
    if isinstance(value, bytes):
        with suppress(zlib.error):
            value = zlib.decompress(value)
        return bytes(value).decode(errors="replace").split("\n")
    return [str(value)]


def decode_sqlite(path: Path, head: bytes) -> Iterator[Any] | None:
    """The cells of every table of a SQLite file. Its free pages are searched as bytes."""
    return _pack_texts(_read_sqlite(path)) if head.startswith(SQLITE_MAGIC) else None


def _read_sqlite(path: Path) -> Iterator[str]:
    for table, value in read_sqlite_cells(path):
        if table != AUDIT_TABLE:
            yield from _list_texts(value)


def decode_shared_table(path: Path, _head: bytes) -> Iterator[Any] | None:
    """The entries of a shared table (LMDB). Its free pages are searched as bytes."""
    return _pack_texts(_read_shared_table(path)) if path.name.endswith(LMDB_SUFFIX) else None


def _read_shared_table(path: Path) -> Iterator[str]:
    return (part.decode(errors="replace") for pair in read_table_entries(path) for part in pair)


def decode_segment(path: Path, _head: bytes) -> Iterator[Any] | None:
    """The records of a segment of the write-ahead log."""
    if not path.name.endswith(SEGMENT_SUFFIX):
        return None
    batches = read_batches(path.read_bytes()[DATA_START:], 0)
    return _pack_texts(line.decode(errors="replace") for batch in batches for line in batch.lines)


DECODERS = (decode_sqlite, decode_shared_table, decode_segment)


def _pack_texts(texts: Iterator[str]) -> Iterator[Any]:
    """Texts as Arrow arrays, so that a large file is searched piece by piece."""
    piece: list[str] = []
    for text in texts:
        piece.append(text)
        if len(piece) >= PIECE_VALUES:
            yield pa.array(piece, pa.large_string())
            piece = []
    yield pa.array(piece, pa.large_string())
