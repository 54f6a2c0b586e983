"""Reads a table or query of a SQLite or PostgreSQL database into a Parquet file, in one read-only transaction.

Design: besides `store.py` this is the only file with SQL; the store is ours, these databases are foreign. The rows are
streamed twice by a server-side cursor: the first pass finds the kind of each column, the second pass writes. Tables are
read in the order of their primary key, so unchanged rows give an unchanged file. Decimals and times of day become text,
objects and lists JSON text, as in Parquet files. PostgreSQL: both passes see one snapshot (REPEATABLE READ). SQLite: a
writer that is not in WAL mode waits until the transaction ends.
"""

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec
import sqlalchemy as sa

from archwright.errors import DataError, ErrorLocation, missing_extra
from archwright.lake.formats.column_kinds import arrow_schema, find_widest_kind
from archwright.lake.formats.row_chunks import CHUNK_BYTES, CHUNK_ROWS
from archwright.lake.formats.source_files import ScannedFile, compute_file_digest
from archwright.lake.lazy_modules import pa, pq
from archwright.settings import read_variable

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
FETCH_ROWS = 256
MAX_QUERY_CHARACTERS = 4000
INT64 = range(-(2**63), 2**63)
encode_json = msgspec.json.Encoder(enc_hook=str).encode


class SqlSource(NamedTuple):
    """A table or a query of a database; `name` is the address without credentials and options."""

    url: sa.URL
    table: str
    query: str

    @property
    def name(self) -> str:
        url = self.url
        host = f"{url.host or url.query.get('host', '')}{f':{url.port}' if url.port else ''}"
        part = f"table={self.table}" if self.table else f"query={' '.join(self.query.split())}"
        return f"{url.get_backend_name()}://{host}/{url.database}?{part}"


def parse_sql_source(address: str, table: str = "", query: str = "") -> SqlSource:
    """Raises DataError AW-DATA-35 (not a URL), -36 (not one of table and query), -38 (a variable is not set)."""
    try:
        url = sa.make_url(address)
    except (sa.exc.ArgumentError, ValueError) as error:
        hint = "use sqlite:///PATH or postgresql://USER:env:VARIABLE@HOST/DATABASE"
        raise DataError("AW-DATA-35", "the address is not a database URL", where=_where(), hint=hint) from error
    table = table or str(url.query.get("table", ""))
    if bool(table) == bool(query) or len(query) > MAX_QUERY_CHARACTERS:
        hint = f"give --table NAME, or --query with at most {MAX_QUERY_CHARACTERS:,} characters"
        raise DataError("AW-DATA-36", "the database needs either a table or a query", where=_where(), hint=hint)
    if url.password and url.password.startswith("env:"):
        variable = url.password.removeprefix("env:")
        secret = read_variable(variable)
        if secret is None:
            hint = f"export {variable}, then run the command again"
            raise DataError("AW-DATA-38", f"the variable {variable} is not set", where=_where(), hint=hint)
        url = url.set(password=secret)
    url = url.set(drivername=DRIVERS[url.get_backend_name()]).difference_update_query(["table"])
    return SqlSource(url, table, query)


def _where(source: SqlSource | None = None) -> ErrorLocation:
    return ErrorLocation(source.name if source else None, None, "path")


def copy_rows(source: SqlSource, path: Path) -> ScannedFile:
    """Write the rows to a new Parquet file. Raises DataError AW-DATA-37 (the database refused), -41 (no such table)."""
    with _open_snapshot(source) as connection:
        statement = _build_statement(source, connection)
        try:
            kinds = _find_kinds(connection.execute(statement))
        except ValueError:  # SQLite stores any text in a column of dates
            schema, _, name = source.table.rpartition(".")
            statement = sa.select(sa.literal_column("*")).select_from(sa.table(name, schema=schema or None))
            kinds = _find_kinds(connection.execute(statement))
        schema = pa.schema([arrow_schema({name: kind}).field(0) for name, kind in kinds])
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for rows in _collect_rows(connection.execute(statement)):
                columns = zip(*rows, strict=True)
                arrays = [
                    pa.array([_convert_value(value, kind) for value in values], field.type)
                    for values, field, (_name, kind) in zip(columns, schema, kinds, strict=True)
                ]
                writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    digest, size = compute_file_digest(path)
    return ScannedFile(path, source.name, "parquet", size, digest, "", stable=False, remote=True)


@contextmanager
def _open_snapshot(source: SqlSource) -> Iterator[sa.Connection]:
    """A connection in a read-only transaction; errors of the database are translated without their parameters."""
    url = source.url
    options: dict[str, Any] = {"stream_results": True, "yield_per": FETCH_ROWS}
    if url.get_backend_name() == "sqlite":
        url = url.set(database=f"file:{quote(url.database or '')}", query={"mode": "ro", "uri": "true"})
    else:
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool, execution_options=options, hide_parameters=True)
        with engine.connect() as connection:
            if url.get_backend_name() == "sqlite":
                connection.exec_driver_sql("BEGIN")
            yield connection
    except ModuleNotFoundError as error:
        raise missing_extra("postgres", str(error.name), "reading PostgreSQL") from error
    except sa.exc.SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        reason = reason.replace(source.url.password or "\0", "***")
        hint = "check address, credentials, table and query; nothing was changed"
        raise DataError("AW-DATA-37", f"the database refused: {reason}", where=_where(source), hint=hint) from None


def _build_statement(source: SqlSource, connection: sa.Connection) -> sa.Executable:
    if source.query:
        return sa.text(source.query.strip().rstrip(";"))
    schema, _, name = source.table.rpartition(".")
    found = sa.inspect(connection)
    names = [*found.get_table_names(schema or None), *found.get_view_names(schema or None)]
    if name not in names:
        hint = f"use one of: {', '.join(sorted(names)[:20]) or 'no table is visible to this user'}"
        near = tuple(get_close_matches(name, names))
        message = f"no table {source.table!r}"
        raise DataError("AW-DATA-41", message, where=_where(source), hint=hint, nearest=near)
    table = sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=connection)
    return sa.select(table).order_by(*table.primary_key.columns)


def _find_kinds(result: sa.CursorResult[Any]) -> list[tuple[str, str]]:
    names = list(result.keys())
    found: list[set[str]] = [set() for _name in names]
    for row in result:
        for kinds, value in zip(found, row, strict=True):
            if value is not None:
                kinds.add(_find_kind(value))
    return [(name, find_widest_kind(kinds)) for name, kinds in zip(names, found, strict=True)]


def _find_kind(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer" if value in INT64 else "text"
    if isinstance(value, datetime.datetime):
        return "timestamp-utc" if value.tzinfo else "timestamp"
    kinds = {bool: "boolean", float: "number", datetime.date: "date", bytes: "bytes", memoryview: "bytes"}
    return kinds.get(type(value), "text")


def _collect_rows(result: sa.CursorResult[Any]) -> Iterator[Sequence[Sequence[Any]]]:
    rows: list[Sequence[Any]] = []
    size = 0
    for row in result:
        rows.append(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _convert_value(value: object, kind: str) -> object:
    if kind != "text" or value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex()
    return encode_json(value).decode().strip('"')
