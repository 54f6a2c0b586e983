"""Signed rows of keys, revocations, ends of secrets, limits and tracing.

A database alone changes no decision.

A field that a later release added is signed only where it is set, so older rows stay authentic.

A row carries `mac`, an HMAC-SHA-256 over its table and all its fields, and `prev`, the `mac` of the
row before it in its table. So an altered, inserted, copied or moved row has no valid signature, and
a removed row leaves a gap. The key is derived from the pepper and the generation of the table
PEPPER_CHECKS. A new generation signs all rows anew: after a lost pepper, and after an erasure that
had to change a signed row.

A row that is removed from a table's end leaves no gap. The audit log's checkpoints state the newest
row of each table (`RowsMark`), and a gateway does not start with rows that contradict the newest
checkpoint.

Design: a key whose own row is not authentic is refused alone. Every other table is trusted as a
whole or not at all: if a row is missing there, nobody knows whose key was revoked or whose limit
was lowered.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import msgspec

from archwright.access import tables
from archwright.access.tables import SIGNED_TABLES, PepperCheck, SignedRow
from archwright.contract.record import Record, replace
from archwright.errors import ErrorLocation, StoreError
from archwright.store import RecordTable, Store, TableRows

R = TypeVar("R", bound=SignedRow)
RowsBySeq = Sequence[tuple[int, R]]

ALTERED_HINT = (
    "run archwright audit verify, then restore the database from a backup: "
    "archwright restore --into DIR; or give up all keys: archwright key reset"
)
LATER_FIELDS = ("parallel",)
_ENCODE = msgspec.json.Encoder().encode


class RowsMark(Record):
    """The newest row of each signed table.

    `seqs`: its number in the store; `digest`: of their signatures.
    """

    generation: int
    seqs: tuple[int, ...]
    digest: str


class RowSigner:
    """Signs and checks rows under a pepper, for one generation of signatures."""

    def __init__(self, pepper: bytes, generation: int) -> None:
        self.generation = generation
        subkey = hmac.digest(pepper, b"archwright signed rows %d" % generation, "sha256")
        self._hmac = hmac.new(subkey, digestmod="sha256")

    def sign(self, table: RecordTable[R], rows: Iterable[R], newest: R | None) -> list[R]:
        """Return the rows, linked to each other and to the `newest` row of their table."""
        signed: list[R] = []
        prev = newest.mac if newest else ""
        for row in rows:
            linked = replace(row, prev=prev)
            prev = self._compute_mac(table, linked)
            signed.append(replace(linked, mac=prev))
        return signed

    def is_authentic(self, table: RecordTable[R], row: R) -> bool:
        expected_mac = self._compute_mac(table, row)
        return hmac.compare_digest(row.mac.encode(), expected_mac.encode())

    def select_authentic(self, table: RecordTable[R], rows: Iterable[R]) -> list[R]:
        return [row for row in rows if self.is_authentic(table, row)]

    def check(self, table: RecordTable[R], rows: RowsBySeq[R], prev: str = "") -> None:
        """Raise StoreError AW-STO-20 unless the rows are authentic.

        They must follow the row with the signature `prev`.
        """
        for seq, row in rows:
            if not self.is_authentic(table, row):
                raise altered_error(f"row {seq} of {table.name} has no valid signature", table)
            if row.prev != prev:
                raise altered_error(f"rows before row {seq} of {table.name} were removed", table)
            prev = row.mac

    def _compute_mac(self, table: RecordTable[R], row: R) -> str:
        fields = _cached_fields(table.record)
        values: list[object] = [table.name]
        for name in fields.names:
            value = getattr(row, name)
            if value is None and name in LATER_FIELDS:
                continue
            if value is not None and name in fields.decimals:
                value = float(value)  # a database returns 5 as 5.0 in a column of decimals
            values.append(value)
        keyed = self._hmac.copy()
        keyed.update(_ENCODE(values))
        return keyed.hexdigest()


class _SignedFields(NamedTuple):
    """The signed fields of a table, and those of decimals among them."""

    names: tuple[str, ...]
    decimals: frozenset[str]


def _list_fields(record: type[Any]) -> _SignedFields:
    names: list[str] = []
    decimals: set[str] = set()
    for field in msgspec.structs.fields(record):
        if field.name != "mac":
            names.append(field.name)
        if field.type in (float, float | None):
            decimals.add(field.name)
    return _SignedFields(tuple(names), frozenset(decimals))


_cached_fields: Callable[[Any], _SignedFields] = cache(_list_fields)


def altered_error(message: str, table: RecordTable[Any]) -> StoreError:
    return StoreError("AW-STO-20", message, where=ErrorLocation(table.name), hint=ALTERED_HINT)


def read_signer(store: Store, pepper: bytes) -> RowSigner:
    """Return the signer of the store's present generation. Raises StoreError."""
    return RowSigner(pepper, _read_generation(store))


def _read_generation(store: Store) -> int:
    newest = store.rows(tables.PEPPER_CHECKS, newest_first=True, limit=1)
    return newest[0].generation if newest else 1


def append_signed(
    store: Store,
    pepper: bytes,
    table: RecordTable[R],
    *rows: R,
) -> Sequence[R]:
    """Append rows, and return them with their signatures.

    Raises as `Store.append_together` does.
    """

    def sign(newest: R | None) -> list[R]:
        return read_signer(store, pepper).sign(table, rows, newest)

    # Makes the table, which cannot be made within the transaction.
    store.newest_seq(tables.PEPPER_CHECKS)
    return store.append_linked(table, sign)


def check_rows(store: Store, signer: RowSigner) -> None:
    """Check every row of every table. Raises StoreError AW-STO-20."""
    for table in SIGNED_TABLES:
        signer.check(table, store.numbered_rows(table))


def sign_unsigned(store: Store, pepper: bytes) -> None:
    """Sign the rows of an older version, once.

    If any row has a signature, all rows stay as they are.
    """
    signer = read_signer(store, pepper)

    def sign_all(groups: list[list[Any]]) -> list[list[Any]]:
        if any(row.mac for row in chain.from_iterable(groups)):
            return groups
        return _sign_groups(signer, groups)

    store.revise_together(SIGNED_TABLES, sign_all)


def sign_anew(
    store: Store,
    pepper: bytes,
    check: PepperCheck,
    *,
    change: Callable[[Any], Any] = lambda row: row,
    former: RowSigner | None = None,
) -> None:
    """Sign every row in the generation of `check`, after a `change`, in one transaction.

    `former`: the signer whose signatures are checked first, within the transaction. Running
    processes read all rows again. Raises StoreError AW-STO-20, and changes nothing, if a row is not
    authentic.
    """
    signer = RowSigner(pepper, check.generation)

    def sign_all(groups: list[list[Any]]) -> list[list[Any]]:
        if former is not None:
            for table, rows in zip(SIGNED_TABLES, groups, strict=True):
                former.check(table, list(enumerate(rows, 1)))
        changed_groups = [list(map(change, rows)) for rows in groups]
        return _sign_groups(signer, changed_groups)

    also: TableRows = ((tables.PEPPER_CHECKS, [check]),)
    store.revise_together(SIGNED_TABLES, sign_all, also=also)


def _sign_groups(signer: RowSigner, groups: list[list[Any]]) -> list[list[Any]]:
    signed_groups: list[list[Any]] = []
    for table, rows in zip(SIGNED_TABLES, groups, strict=True):
        signed_groups.append(signer.sign(table, rows, None))
    return signed_groups


def read_mark(store: Store) -> RowsMark:
    """Return the newest row of each table. Reads six rows, whatever the number of keys."""
    generation = _read_generation(store)
    seqs: list[int] = []
    macs: list[str] = []
    for table in SIGNED_TABLES:
        newest_seq = 0
        newest_mac = ""
        for seq, row in store.numbered_rows(table, newest_first=True, limit=1):
            newest_seq = seq
            newest_mac = row.mac
        seqs.append(newest_seq)
        macs.append(newest_mac)
    return RowsMark(generation=generation, seqs=tuple(seqs), digest=_digest_macs(macs))


def find_mark(store: Store, mark: RowsMark) -> RowsMark:
    """Return the mark of the present rows at the numbers of `mark`.

    It is another one if rows were replaced or removed.
    """
    generation = _read_generation(store)
    macs: list[str] = []
    for table, seq in zip(SIGNED_TABLES, mark.seqs, strict=True):
        rows = store.columns(table, ("mac",), {"seq": seq})
        macs.append(str(rows[0][0]) if rows else "")
    return RowsMark(generation=generation, seqs=mark.seqs, digest=_digest_macs(macs))


def _digest_macs(macs: list[str]) -> str:
    return hashlib.sha256(_ENCODE(macs)).hexdigest()
