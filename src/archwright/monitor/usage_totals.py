"""Usage totals of the requests per day, key and model.

Design: one compaction adds one value (a delta) with the sums of all its keys; deltas are gathered
into rows only when many have accumulated. A row per key at each compaction cost 20 us per request
with 10,000 keys.
"""

import zlib
from collections.abc import Iterable
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
# Most nano-USD of one request: a million USD.
MONEY_LIMIT = 10**15


class UsageTotal(Record):
    """Sum of the requests of one day (since the epoch, UTC), key and model.

    Several rows may exist until they are merged.
    """

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
    """Totals that one compaction adds.

    `data`: compressed JSON of two arrays per total, USAGE_DIMENSIONS and USAGE_MEASURES.
    """

    data: bytes


_EMPTY_DIMENSIONS = {
    "day": 0,
    "tenant": "",
    "key_id": "",
    "user": "",
    "model": "",
    "shadow": False,
}
USAGE_DIMENSIONS = tuple(_EMPTY_DIMENSIONS)
USAGE_MEASURES = (
    "requests",
    "hits",
    "input_tokens",
    "output_tokens",
    "cost_nano_usd",
    "saved_nano_usd",
)
USAGE_TOTALS = RecordTable("usage", UsageTotal)
USAGE_DELTAS = RecordTable("usage_lots", UsageDelta)
UsageSums = dict[tuple[object, ...], list[int]]
"""Sums of the USAGE_MEASURES by the values of some USAGE_DIMENSIONS."""
K = TypeVar("K", bound=tuple[object, ...])
_ENCODE = msgspec.json.Encoder().encode
_Dimensions = tuple[int, str, str, str, str, bool]
_DELTA_DECODER = msgspec.json.Decoder(list[tuple[_Dimensions, list[int]]])


def _clamp_tokens(count: int) -> int:
    if 0 <= count <= TOKENS_LIMIT:
        return count
    return 0 if count < 0 else TOKENS_LIMIT


def _to_nano_usd(usd: float) -> int:
    return min(max(round(usd * NANO), 0), MONEY_LIMIT)


def add_served(sums: UsageSums, served: list[RequestRecord]) -> None:
    """Add requests to `sums`, whose keys have all USAGE_DIMENSIONS."""
    for record in served:
        day = int(record.at // DAY_S)
        key = (day, record.tenant, record.key_id, record.user, record.model, record.shadow)
        measures = sums.get(key)
        if measures is None:
            measures = sums[key] = [0] * len(USAGE_MEASURES)

        measures[0] += 1
        measures[1] += record.cache == "hit"
        measures[2] += _clamp_tokens(record.input_tokens)
        measures[3] += _clamp_tokens(record.output_tokens)
        if record.cost_usd:
            measures[4] += _to_nano_usd(record.cost_usd)
        if record.saved_usd:
            measures[5] += _to_nano_usd(record.saved_usd)


def encode_delta(sums: UsageSums) -> UsageDelta:
    totals = _ENCODE(list(sums.items()))
    return UsageDelta(data=zlib.compress(totals, 1))


def apply_deltas(sums: UsageSums, deltas: list[UsageDelta], positions: list[int]) -> None:
    """Add deltas to `sums`, whose keys have the USAGE_DIMENSIONS at `positions`.

    Raises StoreError AW-STO-08.
    """
    for delta in deltas:
        try:
            totals = _DELTA_DECODER.decode(zlib.decompress(delta.data))
        except (zlib.error, msgspec.MsgspecError) as error:
            message = f"the usage totals are damaged: {error}"
            hint = "restore the database from a backup: archwright restore --into DIR"
            raise StoreError("AW-STO-08", message, hint=hint) from error
        for dimensions, measures in totals:
            key = pick_dimensions(dimensions, positions)
            add_sums(sums, key, measures)


def pick_dimensions(dimensions: tuple[object, ...], positions: list[int]) -> tuple[object, ...]:
    return tuple([dimensions[position] for position in positions])


def add_sums(sums: dict[K, list[int]], key: K, measures: Iterable[int]) -> None:
    total = sums.setdefault(key, [0] * len(USAGE_MEASURES))
    for position, value in enumerate(measures):
        total[position] += value


def gather_deltas(store: Store) -> int:
    """Replace the deltas by rows of totals, one per key; return the number of rows.

    Other processes may compact, read, gather and merge meanwhile. Raises StoreError.
    """
    last_seq = 0
    deltas: list[UsageDelta] = []
    for seq, delta in store.numbered_rows(USAGE_DELTAS):
        last_seq = seq
        deltas.append(delta)

    sums: UsageSums = {}
    every_position = list(range(len(USAGE_DIMENSIONS)))
    apply_deltas(sums, deltas, every_position)
    rows = list_totals(sums, USAGE_DIMENSIONS)

    replaced = (USAGE_DELTAS, last_seq, len(deltas))
    try:
        store.append_together([(USAGE_TOTALS, rows)], instead=replaced)
    except ConflictError:
        return 0
    return len(rows)


def merge_totals(store: Store) -> int:
    """Merge rows of totals with equal dimensions; return the number of rows left.

    Raises StoreError.
    """
    return store.merge(USAGE_TOTALS, USAGE_DIMENSIONS, USAGE_MEASURES)


def list_totals(sums: UsageSums, by: tuple[str, ...]) -> list[UsageTotal]:
    """Return sums by the dimensions `by` as records; the other dimensions are empty."""
    totals: list[UsageTotal] = []
    for key, measures in sums.items():
        fields: dict[str, Any] = dict(_EMPTY_DIMENSIONS)
        fields |= zip(by, key, strict=True)
        fields |= zip(USAGE_MEASURES, measures, strict=True)
        totals.append(UsageTotal(**fields))
    return totals


def list_measures(total: UsageTotal) -> list[int]:
    """Return the values of the USAGE_MEASURES."""
    return [
        total.requests,
        total.hits,
        total.input_tokens,
        total.output_tokens,
        total.cost_nano_usd,
        total.saved_nano_usd,
    ]
