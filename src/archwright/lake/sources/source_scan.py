"""Finds the files of an address: a path, objects of S3, or a table or query of a database."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from archwright.contract.lineage import SourceFile
from archwright.errors import DataError, ErrorLocation
from archwright.lake.formats.source_files import ReadOptions, SourceScan, check_encoding, scan_sources
from archwright.lake.sources import s3_source, sql_source

SCHEME = re.compile(r"([a-z][a-z0-9]*)(?:\+[a-z0-9]+)?://")


class SourceAddress(NamedTuple):
    """A path, or a URL with the table or query of a database."""

    path: str
    table: str = ""
    query: str = ""


@contextmanager
def scan_address(
    address: SourceAddress, spool: Path, known: Mapping[str, SourceFile], options: ReadOptions | None = None
) -> Iterator[SourceScan]:
    """All files of an address. Copies of remote ones lie in the folder `spool`, which is emptied before and after.

    Raises DataError AW-DATA-02 to -06, and -35 to -41 for URLs.
    """
    if not address.path.strip():  # as a path it would be the working folder: often an unset variable
        hint = "give a path, or . for the working folder"
        raise DataError("AW-DATA-02", "the path is empty", where=ErrorLocation(field="path"), hint=hint)
    found = SCHEME.match(address.path)
    scheme = found[1] if found else ""
    if scheme not in ("", "s3", *sql_source.DRIVERS):
        hint = "give a path, or a URL that starts with s3://, sqlite:/// or postgresql://"
        where = ErrorLocation(field="path")
        raise DataError("AW-DATA-35", f"unknown kind of source: {scheme}", where=where, hint=hint)
    if (address.table or address.query) and scheme not in sql_source.DRIVERS:
        hint = "remove --table and --query, or give the URL of a database"
        message = "only a database has a table or a query"
        raise DataError("AW-DATA-36", message, where=ErrorLocation(field="path"), hint=hint)
    check_encoding(options.encoding if options else "")
    if not scheme:
        yield scan_sources(Path(address.path), known, options)
        return
    shutil.rmtree(spool, ignore_errors=True)  # of a killed process
    spool.mkdir(mode=0o700, parents=True)
    try:
        if scheme == "s3":
            yield s3_source.copy_objects(address.path, spool, known, options or ReadOptions())
        else:
            source = sql_source.parse_sql_source(*address)
            yield SourceScan((sql_source.copy_rows(source, spool / "rows.parquet"),), ())
    finally:
        shutil.rmtree(spool, ignore_errors=True)
