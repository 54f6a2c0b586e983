"""How long records of the audit log and of usage are kept, and what a removal may take.

Records leave by whole blocks, the oldest first, so the rest stays one chain. A signed checkpoint
states where the kept ones begin (`audit_start`, `usage_start`) before any is deleted. Totals of
usage (`monitor.usage_totals`) are other rows, which stay.

A removal ends before the first block that a legal hold covers, that no checkpoint covers, that a
second place lacks, or that a segment of the write-ahead log still needs. The last block stays,
because the next one links to it.
"""

import math
import time
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from archwright.access.delivery_cursor import locate_cursor, read_cursor
from archwright.access.log_blocks import LogState, read_log_blocks
from archwright.contract.record import Record
from archwright.errors import ErrorLocation, MissingError
from archwright.home import Home, write_json
from archwright.monitor.wal.compaction import BLOCKS, RecordBlock
from archwright.monitor.wal.segment_owner import list_store_segments, read_store_name
from archwright.monitor.wal.segments import read_compacted_offset, read_segments
from archwright.store import Store

DAY_S = 86_400.0
HOLD_LIMIT = "a legal hold"
UNSIGNED_LIMIT = "no checkpoint covers later records yet"
PLACE_LIMIT = "a second place lacks later records"
NEWEST_LIMIT = "the newest block stays"


class RecordRetention(Record):
    """Seconds after which records leave; None: never. `places` must have an audit record before."""

    audit_s: float | None = None
    usage_s: float | None = None
    places: tuple[str, ...] = ()

    def find_limit(self, stream: str, now: float) -> float | None:
        """Return the time before which records of a stream leave, None if all are kept."""
        age_s = {"audit": self.audit_s, "served": self.usage_s}[stream]
        if age_s is None:
            return None
        return now - age_s


KEEP_ALL = RecordRetention()


def retain_days(audit_days: int, usage_days: int, places: tuple[str, ...]) -> RecordRetention:
    """Return the retention of the settings; 0 days keep all."""
    audit_s = audit_days * DAY_S or None
    usage_s = usage_days * DAY_S or None
    return RecordRetention(audit_s=audit_s, usage_s=usage_s, places=places)


class LegalHold(Record):
    """Records of `tenant` (empty: of all) are kept from their first one on; `at`: since when."""

    id: str
    tenant: str
    reason: str
    at: float


_HOLDS_DECODER = msgspec.json.Decoder(list[LegalHold])


def read_holds(home: Home) -> list[LegalHold]:
    """Return the holds in force, oldest first."""
    try:
        return _HOLDS_DECODER.decode(home.legal_holds.read_bytes())
    except FileNotFoundError:
        return []


def add_hold(home: Home, tenant: str, reason: str) -> LegalHold:
    """Add a hold; the caller writes its audit record."""
    holds = read_holds(home)
    numbers = [int(hold.id.removeprefix("hold-")) for hold in holds]
    now = time.time()
    newest = max(numbers, default=0)
    hold = LegalHold(id=f"hold-{max(newest + 1, int(now))}", tenant=tenant, reason=reason, at=now)
    _write_holds(home, [*holds, hold])
    return hold


def remove_hold(home: Home, hold_id: str) -> LegalHold:
    """Remove a hold. Raises MissingError AW-GET-17 for an unknown id."""
    holds = read_holds(home)
    for hold in holds:
        if hold.id == hold_id:
            _write_holds(home, [other for other in holds if other.id != hold_id])
            return hold
    where = ErrorLocation(field="hold")
    raise MissingError(
        "AW-GET-17", f"no legal hold has the id {hold_id}", where=where, hint="run archwright audit holds"
    )


def _write_holds(home: Home, holds: list[LegalHold]) -> None:
    home.folder(home.legal_holds.parent.name)
    write_json(home.legal_holds, holds)


class RemovalLimits(NamedTuple):
    """`signed_blocks`: how many blocks a checkpoint covers; `places` must have audit records before they leave."""

    signed_blocks: float
    places: tuple[str, ...] = ()


class RemovalEnd(NamedTuple):
    """`state`: the log after the last block that may leave; `records`: how many leave.

    `limit`: what keeps the next old block, empty for nothing; `hold`: the legal hold that keeps it,
    whose first record is of the time `held_at`. `first_at`, `last_at`: times of the records that leave.
    """

    state: LogState
    records: int = 0
    limit: str = ""
    hold: LegalHold | None = None
    held_at: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0


def find_removal(
    store: Store,
    home: Home,
    stream: str,
    *,
    start: LogState,
    before: float,
    limits: RemovalLimits,
) -> RemovalEnd:
    """Return how far blocks whose records are all older than `before` may leave. Raises StoreError.

    `start`: the log before its first kept block.
    """
    holds = read_holds(home)
    delivered_seq = math.inf
    if stream == "audit":
        delivered_seq = _find_delivered_seq(store, home, limits.places)
    offsets = _read_offsets(store, home)
    (newest_seq,) = store.newest_seq(BLOCKS[stream])
    found = RemovalEnd(start)
    for state, block in read_log_blocks(store, stream, start):
        if block.last_at >= before:
            break
        hold = _find_hold(block, holds)
        limit = ""
        if hold is not None:
            limit = HOLD_LIMIT
        elif state.blocks >= limits.signed_blocks:
            limit = UNSIGNED_LIMIT
        elif state.seq > delivered_seq:
            limit = PLACE_LIMIT
        elif state.seq >= newest_seq or block.end > offsets.get(block.writer, block.end):
            limit = NEWEST_LIMIT
        if limit:
            return found._replace(limit=limit, hold=hold, held_at=block.first_at)
        found = RemovalEnd(
            state,
            records=state.records - start.records,
            first_at=found.first_at or block.first_at,
            last_at=max(found.last_at, block.last_at),
        )
    return found


def _find_delivered_seq(store: Store, home: Home, places: tuple[str, ...]) -> float:
    """Return the number of the last block that every place has."""
    store_name = read_store_name(store)
    delivered_seq = math.inf
    for address in places:
        cursor = read_cursor(locate_cursor(home, store_name, address))
        if cursor is None:
            return 0
        delivered_seq = min(delivered_seq, cursor.seq)
    return delivered_seq


def _read_offsets(store: Store, home: Home) -> dict[str, int]:
    """Return how far each segment of the home is compacted by its own statement.

    A later block tells a process that continues the segment where to begin, so it must stay.
    """
    contents = read_segments(list_store_segments(store, home))
    return {name: read_compacted_offset(data) for name, data in contents.items()}


class _TenantLine(msgspec.Struct):
    tenant: str = ""


_TENANT_DECODER = msgspec.json.Decoder(_TenantLine)


def _find_hold(block: RecordBlock, holds: list[LegalHold]) -> LegalHold | None:
    """Return the first hold that covers a record of the block."""
    for hold in holds:
        if not hold.tenant:
            return hold
    if not holds:
        return None
    tenants = set(_list_tenants(block))
    for hold in holds:
        if hold.tenant in tenants:
            return hold
    return None


def _list_tenants(block: RecordBlock) -> Iterator[str]:
    for line in zlib.decompress(block.data).split(b"\n"):
        yield _TENANT_DECODER.decode(line).tenant
