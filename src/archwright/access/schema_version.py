"""The schema version of a database.

A program that is older than the rows does not start to use them.

Design: `schema.json` guards the home of one host. Hosts that share a database have homes of their
own, so the database states the version too. A gateway that runs already goes on: an upgrade of one
host ends no other.
"""

from contextlib import suppress

from archwright import __version__
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, StoreError
from archwright.home import SCHEMA_VERSION
from archwright.store import ConflictError, RecordTable, Store


class WrittenVersion(Record):
    """A version of the stored formats that a program has brought to the database."""

    version: int
    written_by: str


WRITTEN_VERSIONS = RecordTable("schema_versions", WrittenVersion, unique=("version",))


def check_schema_version(store: Store) -> None:
    """State the version of this program in the database.

    Raises StoreError AW-STO-25 if a newer one is there.
    """
    written = store.rows(WRITTEN_VERSIONS)
    newest = max(written, key=lambda row: row.version, default=None)
    if newest is not None and newest.version > SCHEMA_VERSION:
        message = (
            f"a newer archwright ({newest.written_by}) wrote this database: "
            f"schema version {newest.version}, this program knows {SCHEMA_VERSION}"
        )
        hint = (
            "upgrade this host too: pip install -U archwright; or restore an older backup: "
            "archwright restore ID --into DIR"
        )
        where = ErrorLocation(WRITTEN_VERSIONS.name)
        raise StoreError("AW-STO-25", message, where=where, hint=hint)
    if newest is None or newest.version < SCHEMA_VERSION:
        own_version = WrittenVersion(version=SCHEMA_VERSION, written_by=__version__)
        with suppress(ConflictError):  # another process was first
            store.append(WRITTEN_VERSIONS, [own_version])
