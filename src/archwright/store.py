"""The only speaker of SQL: append-only tables of records, in SQLite by default, in PostgreSQL by URL.

A room declares a Table (its name, its record type, what is unique, what is indexed); the store makes columns from
the record's fields (text, integers, floats, booleans, bytes; anything else as JSON) and adds `seq`, the order of
arrival. Rows are never changed; `prune` drops old observations, nothing else is deleted.

SQLite runs in WAL mode with synchronous=NORMAL: a committed row survives kill -9 of every process; a power cut
may lose the last commits but never corrupts.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import sqlalchemy as sa

from archwright.errors import StoreError, Where, missing_extra

R = TypeVar("R")


@dataclass(frozen=True)
class Table(Generic[R]):
    """A table of `record`s; `unique` columns together identify a row, `index` columns are searched."""

    name: str
    record: type[R]
    unique: tuple[str, ...] = ()
    index: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """Rows whose `column` lies in [since, until]; None is open."""

    column: str
    since: float | None = None
    until: float | None = None


class Conflict(StoreError):
    """A row with the same unique columns exists (AW-STO-02)."""


_PLAIN: dict[object, type[sa.types.TypeEngine[Any]]] = {
    str: sa.Text,
    int: sa.BigInteger,
    float: sa.Double,
    bool: sa.Boolean,
    bytes: sa.LargeBinary,
}


def _fields(record: type[Any]) -> tuple[str, ...]:
    names: tuple[str, ...] = record.__struct_fields__
    return names


def _column_type(annotation: object) -> type[sa.types.TypeEngine[Any]] | None:
    """The SQL type of a plain field (Optional or not); None means JSON."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        plain = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _column_type(plain[0]) if len(plain) == 1 else None
    if typing.get_origin(annotation) is typing.Literal:
        return sa.Text
    return _PLAIN.get(annotation)


class Store:
    """Opens at first use. Safe to share between threads; a process opens its own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._metadata = sa.MetaData()
        self._tables: dict[str, sa.Table] = {}
        try:
            self._engine = sa.create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
            raise StoreError(
                "AW-STO-03", f"not a database URL: {error}", hint="sqlite:///FILE or postgresql+psycopg://HOST/NAME"
            ) from error
        except ModuleNotFoundError as error:
            raise missing_extra("postgres", str(error.name), "this database URL") from error
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _sqlite_pragmas)

    def append(self, table: Table[R], rows: Sequence[R]) -> None:
        """Append rows in one transaction. Raises Conflict, or StoreError (AW-STO-01) when the database refuses."""
        if not rows:
            return
        columns = self._table(table)
        with self._guard(), self._engine.begin() as connection:
            connection.execute(columns.insert(), [_encode(row) for row in rows])

    def rows(
        self,
        table: Table[R],
        where: Mapping[str, object] | None = None,
        span: Span | None = None,
        *,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[R]:
        """Rows matching `where` (column = value) and `span`, in order of arrival."""
        columns = self._table(table)
        query = sa.select(columns).where(*_conditions(columns, where, span))
        query = query.order_by(columns.c.seq.desc() if newest_first else columns.c.seq).limit(limit)
        with self._guard(), self._engine.connect() as connection:
            found = connection.execute(query).mappings().all()
        return [_decode(table, dict(row)) for row in found]

    def last_seq(self, table: Table[R]) -> int:
        """The number of the newest row, 0 when empty: a cheap way to see whether anything was appended."""
        columns = self._table(table)
        with self._guard(), self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.max(columns.c.seq))).scalar() or 0)

    def prune(self, table: Table[R], span: Span) -> int:
        """Drop rows of `span`; returns how many."""
        columns = self._table(table)
        with self._guard(), self._engine.begin() as connection:
            return int(connection.execute(columns.delete().where(*_conditions(columns, None, span))).rowcount)

    def close(self) -> None:
        self._engine.dispose()

    def _table(self, table: Table[R]) -> sa.Table:
        known = self._tables.get(table.name)
        if known is not None:
            return known
        hints = typing.get_type_hints(table.record)
        columns: list[sa.Column[Any]] = [
            sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True)
        ]
        for name in _fields(table.record):
            columns.append(sa.Column(name, _column_type(hints[name]) or sa.Text, index=name in table.index))
        constraints = [sa.UniqueConstraint(*table.unique)] if table.unique else []
        made = sa.Table(table.name, self._metadata, *columns, *constraints)
        with self._guard():
            self._create(made)
        self._tables[table.name] = made
        return made

    def _create(self, made: sa.Table) -> None:
        """Create the table; two processes may do so at once, and the loser is content."""
        try:
            made.create(self._engine, checkfirst=True)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError):
            if not sa.inspect(self._engine).has_table(made.name):
                raise

    def _guard(self) -> _Guard:
        return _Guard(self._engine.url.render_as_string(hide_password=True))


class _Guard:
    """Turns the driver's errors into ours; the URL is shown without its password."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.IntegrityError):
            raise Conflict("AW-STO-02", "it exists already", where=Where(self._url)) from error
        if isinstance(error, sa.exc.DBAPIError):
            reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no reason given"
            hint = "free disk space" if "full" in reason else "check that the database is there and writable"
            raise StoreError("AW-STO-01", f"the store refuses: {reason}", where=Where(self._url), hint=hint) from error


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _conditions(
    columns: sa.Table, where: Mapping[str, object] | None, span: Span | None
) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = [columns.c[name] == value for name, value in (where or {}).items()]
    if span is not None and span.since is not None:
        conditions.append(columns.c[span.column] >= span.since)
    if span is not None and span.until is not None:
        conditions.append(columns.c[span.column] <= span.until)
    return conditions


def _encode(row: object) -> dict[str, object]:
    hints = typing.get_type_hints(type(row))
    encoded: dict[str, object] = {}
    for name in _fields(type(row)):
        value = getattr(row, name)
        plain = value is None or _column_type(hints[name]) is not None
        encoded[name] = value if plain else msgspec.json.encode(value).decode()
    return encoded


def _decode(table: Table[R], row: dict[str, Any]) -> R:
    hints = typing.get_type_hints(table.record)
    values = {}
    for name in _fields(table.record):
        value = row[name]
        plain = value is None or _column_type(hints[name]) is not None
        values[name] = value if plain else msgspec.json.decode(value, type=hints[name])
    return table.record(**values)
