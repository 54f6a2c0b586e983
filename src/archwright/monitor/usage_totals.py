"""Usage totals of the requests per day, key and model.

Design: one compaction adds one value (a delta) with the sums of all its keys; deltas are gathered into rows only when
many have accumulated. A row per key at each compaction cost 20 us per request with 10,000 keys.
"""

import zlib
from typing import Any, TypeVar

import msgspec

from archwright.contract.record import Record
from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.store import ConflictError, RecordTable, Store

DAY_S = 86_400.0
# USD are summed as integers of 1e-9 USD, so that the total does not depend on the order.
NANO = 1e9
TOKENS_LIMIT = 1 << 40
MONEY_LIMIT = 10**15  # most nano-USD of one request: a million USD


class UsageTotal(Record):
    """Sum of the requests of one day (since the epoch, UTC), key and model; several rows may exist until merged."""

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
    """Totals that one compaction adds: compressed JSON of two arrays per total, USAGE_DIMENSIONS and USAGE_MEASURES."""

    data: bytes


_EMPTY_DIMENSIONS = {"day": 0, "tenant": "", "key_id": "", "user": "", "model": "", "shadow": False}
USAGE_DIMENSIONS = tuple(_EMPTY_DIMENSIONS)
USAGE_MEASURES = ("requests", "hits", "input_tokens", "output_tokens", "cost_nano_usd", "saved_nano_usd")
USAGE_TOTALS = RecordTable("usage", UsageTotal)
USAGE_DELTAS = RecordTable("usage_lots", UsageDelta)
UsageSums = dict[tuple[object, ...], list[int]]
K = TypeVar("K", bound=tuple[object, ...])
_ENCODE = msgspec.json.Encoder().encode
_ROWS_DECODER = msgspec.json.Decoder(list[tuple[tuple[int, str, str, str, str, bool], list[int]]])


def _clamp_tokens(count: int) -> int:
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


def apply_deltas(sums: UsageSums, deltas: list[UsageDelta], places: list[int]) -> None:
    """Add deltas to `sums`, whose keys have the USAGE_DIMENSIONS at `places`. Raises StoreError AW-STO-08."""
    for delta in deltas:
        try:
            totals = _ROWS_DECODER.decode(zlib.decompress(delta.data))
        except (zlib.error, msgspec.MsgspecError) as error:
            hint = "restore the database from a backup: archwright restore --into DIR"
            raise StoreError("AW-STO-08", f"the usage totals are damaged: {error}", hint=hint) from error
        for key, line in totals:
            add_sums(sums, tuple([key[place] for place in places]), line)


def add_sums(sums: dict[K, list[int]], key: K, line: list[int]) -> None:
    total = sums.setdefault(key, [0] * len(USAGE_MEASURES))
    for place, value in enumerate(line):
        total[place] += value


def gather_deltas(store: Store) -> int:
    """Replace the deltas by rows of totals, one per key; return the number of rows.

    Other processes may compact, read, gather and merge meanwhile. Raises StoreError."""
    deltas = store.numbered_rows(USAGE_DELTAS)
    sums: UsageSums = {}
    apply_deltas(sums, [delta for _, delta in deltas], list(range(len(USAGE_DIMENSIONS))))
    rows = [build_total(USAGE_DIMENSIONS, key, line) for key, line in sums.items()]
    replaced = (USAGE_DELTAS, deltas[-1][0] if deltas else 0, len(deltas))
    try:
        store.append_together([(USAGE_TOTALS, rows)], instead=replaced)
    except ConflictError:
        return 0
    return len(rows)


def merge_totals(store: Store) -> int:
    """Merge rows of totals with equal dimensions; return the number of rows left. Raises StoreError."""
    return store.merge(USAGE_TOTALS, USAGE_DIMENSIONS, USAGE_MEASURES)


def build_total(by: tuple[str, ...], key: tuple[object, ...], line: list[int]) -> UsageTotal:
    named: dict[str, Any] = {**_EMPTY_DIMENSIONS, **dict(zip(by, key, strict=True))}
    named |= zip(USAGE_MEASURES, line, strict=True)
    return UsageTotal(**named)
