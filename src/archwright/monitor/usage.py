"""Usage report: requests, tokens and cost by tenant, key, user, model and day."""

from datetime import UTC, datetime
from typing import Any

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home
from archwright.monitor.usage_totals import DAY_S, NANO, USAGE_MEASURES, add_sums
from archwright.monitor.user_names import read_user_names
from archwright.monitor.wal.compaction import compact_orphans, read_usage_totals
from archwright.store import Store

DIMENSION_FIELDS = {"tenant": "tenant", "key": "key_id", "user": "user", "model": "model", "day": "day"}


class UsageRow(Record):
    """Totals of the finished requests of one group; a dimension that is not grouped by is empty.

    `saved_usd`: cost avoided by cache hits (`hits` of the `requests`). USD are 0 for models without a price; `day` is
    UTC."""

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
    """Return the usage up to now, grouped by the dimensions `by` (tenant, key, user, model, day; comma-separated).

    Requests copied to a shadow model are not counted. Raises UsageError AW-USE-66 for an unknown dimension."""
    words = tuple(dict.fromkeys(word.strip() for word in by.split(",") if word.strip()))
    unknown = [word for word in words if word not in DIMENSION_FIELDS]
    if unknown:
        hint = f"use one or more of {', '.join(DIMENSION_FIELDS)}, separated by commas"
        message = f"usage cannot be grouped by {unknown[0]!r}"
        raise UsageError("AW-USE-66", message, where=ErrorLocation(field="by"), hint=hint)
    compact_orphans(store, home)
    columns = dict.fromkeys((*(DIMENSION_FIELDS[word] for word in words), "tenant", "shadow"))
    sums: dict[tuple[str, ...], list[int]] = {}
    for one in read_usage_totals(store, home, tuple(columns)):
        if not one.shadow and tenant in (None, one.tenant):
            date = datetime.fromtimestamp(one.day * DAY_S, UTC).date().isoformat()
            group = tuple(date if word == "day" else str(getattr(one, DIMENSION_FIELDS[word])) for word in words)
            add_sums(sums, group, [getattr(one, name) for name in USAGE_MEASURES])
    empty: dict[str, Any] = dict.fromkeys(DIMENSION_FIELDS, "")
    names = read_user_names(store) if "user" in words else {}
    rows = []
    for group, (*counts, cost, saved) in sorted(sums.items()):
        fields = empty | dict(zip(words, group, strict=True)) | dict(zip(USAGE_MEASURES, counts, strict=False))
        fields["user"] = names.get(fields["user"], fields["user"])
        rows.append(UsageRow(**fields, cost_usd=cost / NANO, saved_usd=saved / NANO))
    return tuple(rows)
