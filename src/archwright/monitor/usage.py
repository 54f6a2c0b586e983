"""What was asked of the gateway and what it cost, by whom and by what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home
from archwright.monitor.usage_totals import DAY_S, NANO, USAGE_MEASURES, UsageTotal
from archwright.monitor.wal.compaction import compact_orphans, read_usage_totals
from archwright.store import Store

DIMENSION_FIELDS = {"tenant": "tenant", "key": "key_id", "user": "user", "model": "model", "day": "day"}


class UsageRow(Record):
    """Every finished request counted once, to this moment. Empty: not told apart. `saved_usd` is what answers from
    the cache (`hits` of the `requests`) would have cost; money is 0 where a model has no price. `day` is UTC."""

    tenant: str
    key: str
    user: str
    model: str
    day: str
    requests: int
    hits: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    saved_usd: float


def read_usage(store: Store, home: Home, tenant: str | None, by: str) -> tuple[UsageRow, ...]:
    """Requests, tokens and money by any of tenant, key, user, model and day, joined by commas, to this moment.

    Copies sent to a shadow model are nobody's requests and left out. Raises UsageError AW-USE-66 for other words."""
    words = tuple(dict.fromkeys(word.strip() for word in by.split(",") if word.strip()))
    unknown = [word for word in words if word not in DIMENSION_FIELDS]
    if unknown:
        hint = f"any of {', '.join(DIMENSION_FIELDS)}, joined by commas"
        message = f"usage cannot be told by {unknown[0]!r}"
        raise UsageError("AW-USE-66", message, where=ErrorLocation(field="by"), hint=hint)
    compact_orphans(store, home)
    columns = dict.fromkeys((*(DIMENSION_FIELDS[word] for word in words), "tenant", "shadow"))
    totals = read_usage_totals(store, home, tuple(columns))
    return _aggregate_rows([one for one in totals if not one.shadow and tenant in (None, one.tenant)], words)


def _aggregate_rows(found: list[UsageTotal], words: tuple[str, ...]) -> tuple[UsageRow, ...]:
    """One line for each value of `words`, the tenant no longer told apart where it is none of them."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for one in found:
        line = sums.setdefault(tuple(_dimension_value(one, word) for word in words), [0] * len(USAGE_MEASURES))
        line[:] = [value + getattr(one, name) for value, name in zip(line, USAGE_MEASURES, strict=True)]
    return tuple(_build_row(dict(zip(words, key, strict=True)), line) for key, line in sorted(sums.items()))


def _dimension_value(one: UsageTotal, word: str) -> str:
    if word == "day":
        return datetime.fromtimestamp(one.day * DAY_S, UTC).date().isoformat()
    return str(getattr(one, DIMENSION_FIELDS[word]))


def _build_row(names: dict[str, str], sums: list[int]) -> UsageRow:
    *counts, cost, saved = sums
    fields: dict[str, Any] = {**dict.fromkeys(DIMENSION_FIELDS, ""), **names}
    fields |= zip(USAGE_MEASURES, counts, strict=False)
    return UsageRow(**fields, cost_usd=cost / NANO, saved_usd=saved / NANO)
