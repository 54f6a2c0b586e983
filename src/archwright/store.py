"""The only module with SQL: append-only tables of records, in SQLite by default, in PostgreSQL by URL.

A RecordTable declares its name, record type, unique columns and indexes. The store makes columns from the record's
fields (text, integers, floats, booleans, bytes; others as JSON) and adds `seq`, the order of arrival. Rows become
visible in that order, so a reader that has read up to a seq has missed no earlier row. `prune` deletes old
observations, `merge` adds up counts, and the erasure of a person may remove and revise rows. Nothing else changes rows,
and a seq is never reused. If a record gains a field with a default, the table gains the column, and older rows return
the default.

SQLite runs in WAL mode with synchronous=NORMAL: a committed row survives SIGKILL of every process; a power failure may
lose the last commits but never corrupts the file.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import unquote

import msgspec
import sqlalchemy as sa

from archwright.errors import ErrorLocation, StoreError, missing_extra
from archwright.home import close_path

R = TypeVar("R")
WAL_TRIES, WAL_RETRY_S = 100, 0.02
SQLITE_SUFFIXES = ("", "-wal", "-shm", "-journal")
NO_SHARED_INDEX = ("SQLITE_IOERR_SHMOPEN", "SQLITE_IOERR_SHMSIZE")  # on a full disk


@dataclass(frozen=True)
class RecordTable(Generic[R]):
    """A table of records; the `unique` columns together identify a row, the `index` columns are searched."""

    name: str
    record: type[R]
    unique: tuple[str, ...] = ()
    index: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnRange:
    """Rows with `column` in [since, until]; None is open."""

    column: str
    since: float | None = None
    until: float | None = None


ColumnRanges = ColumnRange | tuple[ColumnRange, ...] | None
TableRows = Sequence[tuple[RecordTable[Any], Sequence[Any]]]
ReplacedRows = tuple[RecordTable[Any], int, int]
INSERT_BATCH_ROWS = 500  # more rows per statement cost memory and save no time
# Detects a dead host within seconds; the defaults of the system take 15 minutes.
POSTGRES_TIMEOUTS = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10, "keepalives_interval": 5}


class ConflictError(StoreError):
    """A row with the same unique columns exists (AW-STO-02)."""


_ColumnTypes = dict[object, type[sa.types.TypeEngine[Any]]]
_PLAIN_COLUMN_TYPES: _ColumnTypes = {
    str: sa.Text,
    int: sa.BigInteger,
    float: sa.Double,
    bool: sa.Boolean,
    bytes: sa.LargeBinary,
}


def _column_type(annotation: object) -> type[sa.types.TypeEngine[Any]] | None:
    """Return the SQL type of a plain field (Optional or not); None means JSON."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        plain = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _column_type(plain[0]) if len(plain) == 1 else None
    if typing.get_origin(annotation) is typing.Literal:
        return sa.Text
    return _PLAIN_COLUMN_TYPES.get(annotation)


class _FieldLayout(NamedTuple):
    """How a field is stored. `decode` is None for a plain column; `default` is for rows older than the field."""

    name: str
    column: type[sa.types.TypeEngine[Any]]
    decode: Callable[[str], Any] | None
    default: Callable[[], object] | None


def _read_layout(record: type[Any]) -> tuple[_FieldLayout, ...]:
    """Read the fields of a record type; cached, because this costs more than storing a row."""
    hints = typing.get_type_hints(record)
    made = []
    for field in msgspec.structs.fields(record):
        hint = hints[field.name]
        column = _column_type(hint)
        decode = None if column is not None else msgspec.json.Decoder(hint).decode
        optional = type(None) in typing.get_args(hint)
        made.append(_FieldLayout(field.name, column or sa.Text, decode, None if optional else _default_factory(field)))
    return tuple(made)


_cached_layout: Callable[[Any], tuple[_FieldLayout, ...]] = cache(_read_layout)


def _default_factory(field: msgspec.structs.FieldInfo) -> Callable[[], object] | None:
    if field.default_factory is not msgspec.NODEFAULT:
        return typing.cast("Callable[[], object]", field.default_factory)
    return None if field.default is msgspec.NODEFAULT else lambda: field.default


class Store:
    """A database that opens at first use. Threads may share it; every process opens its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._tables: dict[str, sa.Table] = {}
        self._newest_queries: dict[tuple[RecordTable[Any], ...], sa.Select[Any]] = {}
        self._define_lock = threading.Lock()
        self._pinned = threading.local()
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":  # operators of databases write URLs without our driver
                parsed = parsed.set(drivername="postgresql+psycopg")
            remote = parsed.get_backend_name() == "postgresql"
            timeouts = {name: most for name, most in POSTGRES_TIMEOUTS.items() if remote and name not in parsed.query}
            self._engine = sa.create_engine(parsed, pool_pre_ping=remote, connect_args=timeouts)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
            # The text of a ValueError has a part of the URL, perhaps of its password.
            detail = "the port is not a number" if isinstance(error, ValueError) else str(error)
            message, where = f"invalid database URL: {detail}", ErrorLocation(field="database_url")
            hint = "use sqlite:///FILE or postgresql+psycopg://HOST/NAME; percent-encode the password"
            raise StoreError("AW-STO-03", message, where=where, hint=hint) from error
        except ModuleNotFoundError as error:
            raise missing_extra("postgres", str(error.name), "this database URL") from error
        if self._engine.dialect.name == "sqlite":
            _close_sqlite_files(parsed)
            sa.event.listen(self._engine, "do_connect", _open_sqlite)
            sa.event.listen(self._engine, "connect", _sqlite_pragmas)

    def append(self, table: RecordTable[R], rows: Sequence[R]) -> None:
        self.append_together(((table, rows),))

    def append_together(self, tables: TableRows, *, synced: bool = False, instead: ReplacedRows | None = None) -> None:
        """Append the rows of several tables in one transaction.

        `synced`: the rows survive a power failure. `instead` (table, seq, count): delete the table's rows up to seq in
        the same transaction. Raises ConflictError AW-STO-02 (a row exists, or the deleted rows were not `count`),
        StoreError AW-STO-01 (the database refuses), AW-STO-07 (a value cannot be stored).
        """
        filled = [(self._table(table), rows) for table, rows in tables if rows]
        if not filled:
            return
        replaced = [] if instead is None else [(self._table(instead[0]), instead)]
        with self._translate_errors(), self._engine.begin() as connection:
            if synced and connection.dialect.name == "sqlite":  # for the lifetime of the connection
                connection.exec_driver_sql("PRAGMA synchronous=FULL")
            _lock_tables(connection, *(columns for columns, _ in (*filled, *replaced)))
            for columns, (_, upto, count) in replaced:
                if connection.execute(columns.delete().where(columns.c.seq <= upto)).rowcount != count:
                    message, where = "another process replaced these rows", ErrorLocation(columns.name)
                    raise ConflictError("AW-STO-02", message, where=where, hint="read the rows again")
            for columns, rows in filled:
                for start in range(0, len(rows), INSERT_BATCH_ROWS):
                    connection.execute(
                        columns.insert(), [_encode_row(row) for row in rows[start : start + INSERT_BATCH_ROWS]]
                    )

    def append_linked(self, table: RecordTable[R], link: Callable[[R | None], Sequence[R]]) -> Sequence[R]:
        """Append the rows that `link` returns for the newest row (None: there is no row), and return them.

        No other process appends to the table meanwhile, and the rows survive a power failure. Tables that `link` reads
        must exist. Raises as `append_together` does.
        """
        columns, layout = self._table(table), _cached_layout(table.record)
        newest = sa.select(*[columns.c[field.name] for field in layout]).order_by(columns.c.seq.desc()).limit(1)
        with self._translate_errors(), self._begin_exclusively(columns) as connection:
            found = connection.execute(newest).first()
            rows = link(None if found is None else _decode_row(table.record, layout, found))
            for start in range(0, len(rows), INSERT_BATCH_ROWS):
                batch = rows[start : start + INSERT_BATCH_ROWS]
                connection.execute(columns.insert(), [_encode_row(row) for row in batch])
            return rows

    def revise_together(
        self,
        tables: Sequence[RecordTable[Any]],
        change: Callable[[list[list[Any]]], list[list[Any]]],
        *,
        also: TableRows = (),
    ) -> None:
        """Replace the rows of all `tables` by those that `change` returns, and append `also`, in one transaction.

        No other process appends to the tables meanwhile. Raises as `append_together` does.
        """
        revised = [self._table(table) for table in tables]
        appended = [(self._table(table), rows) for table, rows in also]
        locked = (*revised, *(columns for columns, _ in appended))
        with self._translate_errors(), self._begin_exclusively(*locked) as connection:
            numbered = [self.numbered_rows(table) for table in tables]
            changed = change([[row for _seq, row in rows] for rows in numbered])
            for columns, old_rows, new_rows in zip(revised, numbered, changed, strict=True):
                updates = [
                    {"row_seq": seq, **_encode_row(new)}
                    for (seq, old), new in zip(old_rows, new_rows, strict=True)
                    if new != old
                ]
                if updates:
                    connection.execute(columns.update().where(columns.c.seq == sa.bindparam("row_seq")), updates)
            for columns, rows in appended:
                connection.execute(columns.insert(), [_encode_row(row) for row in rows])

    @contextmanager
    def _begin_exclusively(self, *tables: sa.Table) -> Iterator[sa.Connection]:
        """Begin a durable transaction, which no other writer of the tables interrupts. This thread reads within it."""
        with self._engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA synchronous=FULL")  # for the lifetime of the connection
                connection.exec_driver_sql("BEGIN IMMEDIATE")  # the driver would begin at the first write
            _lock_tables(connection, *tables)
            self._pinned.connection = connection
            try:
                yield connection
            finally:
                self._pinned.connection = None

    def rows(
        self,
        table: RecordTable[R],
        where: Mapping[str, object] | None = None,
        span: ColumnRanges = None,
        *,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        """Return the rows that match `where` (column = value) and `span`, in order of arrival."""
        conditions = _where_conditions(self._table(table), where, span)
        return [row for _seq, row in self._select_rows(table, conditions, limit, newest_first=newest_first)]

    def numbered_rows(
        self,
        table: RecordTable[R],
        after: int = 0,
        limit: int | None = None,
        span: ColumnRanges = None,
        *,
        newest_first: bool = False,
    ) -> list[tuple[int, R]]:
        """Return (seq, row) of the rows after the seq `after`, for readers that continue from there.

        With `newest_first`: the rows before it (0: from the newest on).
        """
        columns = self._table(table)
        conditions, seq = _where_conditions(columns, None, span), columns.c.seq
        if after or not newest_first:
            conditions.append(seq < after if newest_first else seq > after)
        return self._select_rows(table, conditions, limit, newest_first=newest_first)

    def _select_rows(
        self, table: RecordTable[R], conditions: list[sa.ColumnElement[bool]], limit: int | None, *, newest_first: bool
    ) -> list[tuple[int, R]]:
        columns, layout = self._table(table), _cached_layout(table.record)
        seq = columns.c.seq
        query = sa.select(*[columns.c[field.name] for field in layout], seq).where(*conditions)
        query = query.order_by(seq.desc() if newest_first else seq).limit(limit)
        with self._translate_errors(), self._read_connection() as connection:
            found = connection.execute(query).all()
        return [(row[-1], _decode_row(table.record, layout, row)) for row in found]

    def columns(
        self,
        table: RecordTable[R],
        names: tuple[str, ...],
        where: Mapping[str, object] | None = None,
        span: ColumnRanges = None,
    ) -> Sequence[tuple[Any, ...]]:
        """Return some columns of the rows as stored (JSON as text), in order of arrival; faster than whole rows."""
        columns = self._table(table)
        query = sa.select(*[columns.c[name] for name in names]).where(*_where_conditions(columns, where, span))
        with self._translate_errors(), self._read_connection() as connection:
            return connection.execute(query.order_by(columns.c.seq)).all()

    def sums(self, table: RecordTable[R], by: tuple[str, ...], of: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """Return for each distinct `by` its values, then the sums of the integer columns `of`."""
        columns = self._table(table)
        with self._translate_errors(), self._read_connection() as connection:
            found = connection.execute(_select_sums(columns, by, of)).all()
        return [(*row[: len(by)], *map(int, row[len(by) :])) for row in found if row[-1] is not None]

    def merge(self, table: RecordTable[R], by: tuple[str, ...], of: tuple[str, ...]) -> int:
        """Replace all rows that agree in `by` by one row with the sums of `of`; return the number of rows left.

        `by` and `of` together are all fields but `seq`. One transaction; `sums` returns the same before and after, and
        other processes may append, read and merge at the same time.
        """
        columns = self._table(table)
        (last,) = self.newest_seq(table)
        with self._translate_errors(), self._engine.begin() as connection:
            _lock_tables(connection, columns)
            merged = _select_sums(columns, by, of).where(columns.c.seq <= last)
            connection.execute(columns.insert().from_select([*by, *of], merged))
            connection.execute(columns.delete().where(columns.c.seq <= last))
            return int(connection.execute(sa.select(sa.func.count()).select_from(columns)).scalar() or 0)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Give all reads of this thread one consistent view: the store at the first read."""
        with self._translate_errors(), self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ")
            else:
                connection.exec_driver_sql("BEGIN")  # the driver opens a transaction only for writes
            self._pinned.connection = connection
            try:
                yield
            finally:
                self._pinned.connection = None

    def newest_seq(self, *tables: RecordTable[Any]) -> tuple[int, ...]:
        """Return the seq of the newest row of each table, 0 if empty, in one query: a cheap check for new rows."""
        if tables not in self._newest_queries:
            numbers = [sa.select(sa.func.max(self._table(table).c.seq)).scalar_subquery() for table in tables]
            self._newest_queries[tables] = sa.select(*numbers)
        with self._translate_errors(), self._read_connection() as connection:
            return tuple(int(number or 0) for number in connection.execute(self._newest_queries[tables]).one())

    def prune(self, table: RecordTable[R], span: ColumnRange) -> int:
        """Delete the rows of `span`; return their number."""
        columns = self._table(table)
        with self._translate_errors(), self._engine.begin() as connection:
            return int(connection.execute(columns.delete().where(*_where_conditions(columns, None, span))).rowcount)

    def remove(self, table: RecordTable[R], where: Mapping[str, object]) -> int:
        """Delete the rows that match `where`; return their number."""
        columns = self._table(table)
        with self._translate_errors(), self._engine.begin() as connection:
            return int(connection.execute(columns.delete().where(*_where_conditions(columns, where, None))).rowcount)

    def revise(self, table: RecordTable[R], change: Callable[[R], R]) -> int:
        """Replace each row that `change` returns altered; return their number. For corrections that the law demands."""
        columns = self._table(table)
        changed = [(seq, new) for seq, row in self.numbered_rows(table) if (new := change(row)) != row]
        with self._translate_errors(), self._engine.begin() as connection:
            for seq, row in changed:
                connection.execute(columns.update().where(columns.c.seq == seq).values(_encode_row(row)))
        return len(changed)

    def read_cells(self) -> Iterator[tuple[str, str, object]]:
        """Yield (table, column, value) of every text and blob in the database, for a search over all of it."""
        for found in self._reflect_tables():
            plain = [column for column in found.columns if isinstance(column.type, sa.Text | sa.LargeBinary)]
            if plain:
                with self._translate_errors(), self._engine.connect() as connection:
                    for row in connection.execution_options(yield_per=1000).execute(sa.select(*plain)):
                        for column, value in zip(plain, row, strict=True):
                            if value is not None:
                                yield found.name, column.name, value

    def revise_texts(self, change: Callable[[str], str], excluded: Collection[str] = ()) -> int:
        """Replace each text that `change` returns altered, in every table not `excluded`; return their number."""
        count = 0
        for found in (one for one in self._reflect_tables() if one.name not in excluded):
            texts = [column for column in found.columns if isinstance(column.type, sa.Text)]
            with self._translate_errors(), self._engine.begin() as connection:
                for seq, *values in connection.execute(sa.select(found.c.seq, *texts)).all():
                    named = zip(texts, values, strict=True)
                    new = {column.name: text for column, old in named if old and (text := change(old)) != old}
                    if new:
                        connection.execute(found.update().where(found.c.seq == seq).values(new))
                        count += len(new)
        return count

    def _reflect_tables(self) -> list[sa.Table]:
        """Our tables in the database: those with a row number."""
        found = sa.MetaData()
        with self._translate_errors():
            found.reflect(self._engine)
        return [table for table in found.sorted_tables if "seq" in table.c]

    def purge_deleted_rows(self) -> None:
        """Write the database without what was deleted: free pages, old row versions and the log of SQLite."""
        with self._translate_errors(), self._engine.connect() as connection:
            plain = connection.execution_options(isolation_level="AUTOCOMMIT")
            if connection.dialect.name == "sqlite":
                plain.exec_driver_sql("VACUUM")
                plain.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
                return
            for table in self._reflect_tables():
                plain.exec_driver_sql(f'VACUUM (FULL) "{table.name}"')

    def close(self) -> None:
        self._engine.dispose()

    def _read_connection(self) -> AbstractContextManager[sa.Connection]:
        pinned: sa.Connection | None = getattr(self._pinned, "connection", None)
        return self._engine.connect() if pinned is None else nullcontext(pinned)

    def _table(self, table: RecordTable[R]) -> sa.Table:
        if table.name not in self._tables:
            with self._define_lock:
                if table.name not in self._tables:
                    self._tables[table.name] = self._define_table(table)
        return self._tables[table.name]

    def _define_table(self, table: RecordTable[R]) -> sa.Table:
        columns: list[sa.Column[Any]] = [
            sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)
        ]
        for field in _cached_layout(table.record):
            columns.append(sa.Column(field.name, field.column, index=field.name in table.index))
        constraints = [sa.UniqueConstraint(*table.unique)] if table.unique else []
        made = sa.Table(table.name, sa.MetaData(), *columns, *constraints, sqlite_autoincrement=True)
        with self._translate_errors():
            try:
                made.create(self._engine, checkfirst=True)
            except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
                if not sa.inspect(self._engine).has_table(made.name):
                    raise
            self._add_missing_columns(made)
        return made

    def _add_missing_columns(self, made: sa.Table) -> None:
        quote = self._engine.dialect.identifier_preparer.quote
        for column in self._missing_columns(made):
            kind = column.type.compile(self._engine.dialect)
            try:
                with self._engine.begin() as connection:
                    connection.exec_driver_sql(f"ALTER TABLE {quote(made.name)} ADD COLUMN {quote(column.name)} {kind}")
            except (sa.exc.OperationalError, sa.exc.ProgrammingError):
                if column in self._missing_columns(made):  # else another process was first
                    raise

    def _missing_columns(self, made: sa.Table) -> list[sa.Column[Any]]:
        present = {column["name"] for column in sa.inspect(self._engine).get_columns(made.name)}
        return [column for column in made.columns if column.name not in present]

    def _translate_errors(self) -> _ErrorTranslator:
        return _ErrorTranslator(self._engine.url.render_as_string(hide_password=True))


class _NotStorableError(ValueError): ...


class _ErrorTranslator:
    """Translates the errors of the driver; the URL is shown without its password."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.IntegrityError):
            message, hint = "a row with these unique values exists already", "choose another name or id"
            raise ConflictError("AW-STO-02", message, where=ErrorLocation(self._url), hint=hint) from error
        if isinstance(error, sa.exc.DBAPIError):
            reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no reason given"
            hint = "check that the database exists and is writable, and that its disk has free space"
            hint = "free disk space" if "full" in reason else hint
            where = ErrorLocation(self._url)
            raise StoreError("AW-STO-01", f"the database refused: {reason}", where=where, hint=hint) from error
        if isinstance(error, (OverflowError, UnicodeEncodeError, _NotStorableError)):
            hint = "use finite numbers, integers of 64 bits, and valid Unicode"
            where = ErrorLocation(self._url)
            raise StoreError("AW-STO-07", f"a value cannot be stored: {error}", where=where, hint=hint) from error


def _lock_tables(connection: sa.Connection, *tables: sa.Table) -> None:
    """Serialise the writers of a table. PostgreSQL assigns a seq before the commit, so without a lock a later seq could
    become visible first. SQLite has one writer at a time."""
    if connection.dialect.name == "postgresql":
        for name in sorted(table.name for table in tables):
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name))))


def _select_sums(columns: sa.Table, by: tuple[str, ...], of: tuple[str, ...]) -> sa.Select[Any]:
    keys = [columns.c[name] for name in by]
    return sa.select(*keys, *(sa.func.sum(columns.c[name]) for name in of)).group_by(*keys)


def _close_sqlite_files(url: sa.URL) -> None:
    """Make the files of the database readable by this user only, and note it on standard error if they were not.

    SQLite gives the modes of the database to its log and its index. Raises StoreError AW-STO-24 for a file of another
    user, SettingsError AW-SET-07 if a mode cannot be changed.
    """
    mode = url.query.get("mode")
    name = unquote((url.database or "").removeprefix("file:")) if "uri" in url.query else url.database
    if not name or name == ":memory:" or mode == "memory":
        return
    path = Path(name)
    if mode not in ("ro", "rw"):
        # An existing file must not be opened: closing it would release the locks of this process.
        with suppress(OSError):  # SQLite states why it cannot create the file
            path.touch(0o600, exist_ok=False)
    if path.exists() and path.stat().st_uid != os.getuid():
        hint = f"run: chown {os.getuid()} {path}, or set database_url to another file"
        message = f"the user {path.stat().st_uid} owns the database"
        raise StoreError("AW-STO-24", message, where=ErrorLocation(str(path)), hint=hint)
    closed = sum(close_path(path.with_name(path.name + suffix)) for suffix in SQLITE_SUFFIXES)
    if closed:
        sys.stderr.write(
            f"note: the database {path} was open to other users. The modes of {closed} files were corrected.\n"
        )


def _open_sqlite(dialect: Any, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
    """Open the file; on a full disk without the index that processes share.

    If the index cannot be made, nobody else has the file open, for then the index would exist. So this connection keeps
    its index in memory, and the file for itself."""
    connection = dialect.connect(*arguments, **options)
    try:
        connection.execute("PRAGMA journal_mode")
    except connection.OperationalError as error:
        if error.sqlite_errorname in NO_SHARED_INDEX:
            connection.close()
            connection = dialect.connect(*arguments, **options)
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    return connection


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=10000")
    # If two processes switch a new database to WAL at once, SQLite refuses one of them without waiting.
    for _ in range(WAL_TRIES):
        with suppress(connection.OperationalError):
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        time.sleep(WAL_RETRY_S)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _where_conditions(
    columns: sa.Table, where: Mapping[str, object] | None, span: ColumnRanges
) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [columns.c[name] == value for name, value in (where or {}).items()]
    for one in (span,) if isinstance(span, ColumnRange) else span or ():
        if one.since is not None:
            conditions.append(columns.c[one.column] >= one.since)
        if one.until is not None:
            conditions.append(columns.c[one.column] <= one.until)
    return conditions


def _encode_row(row: object) -> dict[str, object]:
    encoded: dict[str, object] = {}
    for name, column, decode, _ in _cached_layout(type(row)):
        value = getattr(row, name)
        if value is not None and decode is not None:
            value = msgspec.json.encode(value).decode()
        elif column is sa.Double and value is not None and not math.isfinite(value):
            raise _NotStorableError(f"{name} is {value}")  # SQLite would keep NaN as NULL
        encoded[name] = value
    return encoded


def _decode_row(record: type[R], layout: tuple[_FieldLayout, ...], row: Sequence[Any]) -> R:
    values: dict[str, Any] = {}
    for (name, _, decode, default), value in zip(layout, row, strict=False):  # `row` may end with its seq
        if value is None:
            values[name] = None if default is None else default()
        else:
            values[name] = value if decode is None else decode(value)
    return record(**values)


def read_sqlite_cells(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """Yield (table, value) of every text and blob of a SQLite file. Raises ValueError if it cannot be read."""
    engine = sa.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true")
    found = sa.MetaData()
    try:
        found.reflect(engine)
        with engine.connect() as connection:
            for table in found.tables.values():
                for row in connection.execution_options(yield_per=1000).execute(sa.select(table)):
                    yield from ((table.name, value) for value in row if isinstance(value, str | bytes))
    except sa.exc.SQLAlchemyError as error:
        raise ValueError(f"the file cannot be read: {error}") from error
    finally:
        engine.dispose()
