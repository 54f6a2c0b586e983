"""What the requests of a day, key and model add up to: usage, as it is kept.

Decides how it is kept where many keys ask: what one fold adds is one value (a lot), and the lots become rows only when
many wait. A row a key at each fold cost 20 us a request with 10,000 keys.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from archwright.contract.record import Record
from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.store import ConflictError, RecordTable, Store

DAY_S = 86_400.0
# Money is added up in whole billionths of a dollar: the same total in whatever order.
NANO = 1e9
TOKENS_LIMIT = 1 << 40
MONEY_LIMIT = 10**15  # of one request: a million dollars


class UsageTotal(Record):
    """What requests of one day (since the epoch, UTC), key and model add up to; a part of it, until merged."""

    day: int
    tenant: str
    key_id: str
    user: str
    model: str
    shadow: bool
    requests: int
    hits: int
    input_tokens: int
    output_tokens: int
    cost_nano_usd: int
    saved_nano_usd: int


class UsageDelta(Record):
    """What one fold adds to the totals, as one value: with many keys a row for each would cost more than all else.
    Of every total the fields of USAGE_DIMENSIONS and those of USAGE_MEASURES as two arrays; compressed JSON."""

    data: bytes


_EMPTY_DIMENSIONS = {"day": 0, "tenant": "", "key_id": "", "user": "", "model": "", "shadow": False}
USAGE_DIMENSIONS = tuple(_EMPTY_DIMENSIONS)
USAGE_MEASURES = ("requests", "hits", "input_tokens", "output_tokens", "cost_nano_usd", "saved_nano_usd")
USAGE_TOTALS = RecordTable("usage", UsageTotal)
USAGE_DELTAS = RecordTable("usage_lots", UsageDelta)
UsageSums = dict[tuple[object, ...], list[int]]
_ENCODE = msgspec.json.Encoder().encode
_ROWS_DECODER = msgspec.json.Decoder(list[tuple[tuple[int, str, str, str, str, bool], list[int]]])


def _clamp_tokens(count: int) -> int:
    """What an engine claims, within what can be added up."""
    return min(max(count, 0), TOKENS_LIMIT)


def _to_nano_usd(usd: float) -> int:
    return min(max(round(usd * NANO), 0), MONEY_LIMIT)


def add_served(sums: UsageSums, served: list[RequestRecord]) -> None:
    for one in served:
        key = (int(one.at // DAY_S), one.tenant, one.key_id, one.user, one.model, one.shadow)
        line = sums.get(key)
        if line is None:
            line = sums[key] = [0] * len(USAGE_MEASURES)
        line[0] += 1
        line[1] += one.cache == "hit"
        line[2] += one.input_tokens if 0 <= one.input_tokens <= TOKENS_LIMIT else _clamp_tokens(one.input_tokens)
        line[3] += one.output_tokens if 0 <= one.output_tokens <= TOKENS_LIMIT else _clamp_tokens(one.output_tokens)
        if one.cost_usd:
            line[4] += _to_nano_usd(one.cost_usd)
        if one.saved_usd:
            line[5] += _to_nano_usd(one.saved_usd)


def encode_delta(sums: UsageSums) -> UsageDelta:
    return UsageDelta(data=zlib.compress(_ENCODE(list(sums.items())), 1))


def apply_deltas(sums: UsageSums, lots: list[UsageDelta], places: list[int]) -> None:
    """Into `sums`, of which a key has the fields of USAGE_DIMENSIONS at `places`. Raises StoreError AW-STO-08."""
    for lot in lots:
        try:
            found = _ROWS_DECODER.decode(zlib.decompress(lot.data))
        except (zlib.error, msgspec.MsgspecError) as error:
            raise StoreError("AW-STO-08", f"totals are damaged: {error}", hint="restore from backup") from error
        for key, line in found:
            add_sums(sums, tuple([key[place] for place in places]), line)


def add_sums(sums: UsageSums, key: tuple[object, ...], line: list[int]) -> None:
    mine = sums.setdefault(key, [0] * len(USAGE_MEASURES))
    for place, value in enumerate(line):
        mine[place] += value


def gather_deltas(store: Store) -> int:
    """Put the lots into the totals, one row for all that belong together; how many rows came of them. Others may
    fold, read, gather and merge meanwhile. Raises StoreError."""
    found = store.numbered_rows(USAGE_DELTAS)
    sums: UsageSums = {}
    apply_deltas(sums, [lot for _, lot in found], list(range(len(USAGE_DIMENSIONS))))
    rows = [build_total(USAGE_DIMENSIONS, key, line) for key, line in sums.items()]
    try:
        store.append_together([(USAGE_TOTALS, rows)], instead=(USAGE_DELTAS, found[-1][0] if found else 0, len(found)))
    except ConflictError:
        return 0
    return len(rows)


def merge_totals(store: Store) -> int:
    """One row of totals where there are several of the same; how many there are then. Raises StoreError."""
    return store.merge(USAGE_TOTALS, USAGE_DIMENSIONS, USAGE_MEASURES)


def build_total(by: tuple[str, ...], key: tuple[object, ...], line: list[int]) -> UsageTotal:
    named: dict[str, Any] = {**_EMPTY_DIMENSIONS, **dict(zip(by, key, strict=True))}
    named |= zip(USAGE_MEASURES, line, strict=True)
    return UsageTotal(**named)
