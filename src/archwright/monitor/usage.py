"""Usage report: requests, tokens and cost by tenant, key, user, model and day."""

from datetime import UTC, datetime
from typing import Any

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home
from archwright.monitor.usage_totals import (
    DAY_S,
    NANO,
    USAGE_MEASURES,
    UsageTotal,
    add_sums,
    list_measures,
)
from archwright.monitor.user_names import read_user_names
from archwright.monitor.wal.compaction import compact_orphans, read_usage_totals
from archwright.store import Store

DIMENSION_FIELDS = {
    "tenant": "tenant",
    "key": "key_id",
    "user": "user",
    "model": "model",
    "day": "day",
}


class UsageRow(Record):
    """Totals of the finished requests of one group; a dimension that is not grouped by is empty.

    `saved_usd`: cost avoided by cache hits (`hits` of the `requests`). USD are 0 for models without
    a price; `day` is UTC.
    """

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


def read_usage(store: Store, home: Home, *, tenant: str | None, by: str) -> tuple[UsageRow, ...]:
    """Return the usage up to now, grouped by the dimensions `by`.

    `by`: tenant, key, user, model and day, separated by commas. `tenant`: that of the requests;
    None: all. Requests copied to a shadow model are not counted. Raises UsageError AW-USE-66 for an
    unknown dimension.
    """
    dimensions = _parse_dimensions(by)
    compact_orphans(store, home)

    fields = [DIMENSION_FIELDS[dimension] for dimension in dimensions]
    columns = dict.fromkeys((*fields, "tenant", "shadow"))
    sums: dict[tuple[str, ...], list[int]] = {}
    for total in read_usage_totals(store, home, tuple(columns)):
        if not total.shadow and tenant in (None, total.tenant):
            group = _list_group(total, dimensions)
            add_sums(sums, group, list_measures(total))

    user_names: dict[str, str] = {}
    if "user" in dimensions:
        user_names = read_user_names(store)
    rows: list[UsageRow] = []
    for group, measures in sorted(sums.items()):
        group_names = dict(zip(dimensions, group, strict=True))
        rows.append(_build_row(group_names, measures, user_names))
    return tuple(rows)


def _parse_dimensions(by: str) -> tuple[str, ...]:
    """Return the dimensions that a text names, each once. Raises UsageError AW-USE-66."""
    dimensions: dict[str, None] = {}
    for word in by.split(","):
        dimension = word.strip()
        if dimension:
            dimensions[dimension] = None

    for dimension in dimensions:
        if dimension not in DIMENSION_FIELDS:
            message = f"usage cannot be grouped by {dimension!r}"
            hint = f"use one or more of {', '.join(DIMENSION_FIELDS)}, separated by commas"
            raise UsageError("AW-USE-66", message, where=ErrorLocation(field="by"), hint=hint)
    return tuple(dimensions)


def _list_group(total: UsageTotal, dimensions: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of the dimensions, the day as a date."""
    values: list[str] = []
    for dimension in dimensions:
        if dimension == "day":
            midnight = datetime.fromtimestamp(total.day * DAY_S, UTC)
            values.append(midnight.date().isoformat())
        else:
            values.append(str(getattr(total, DIMENSION_FIELDS[dimension])))
    return tuple(values)


def _build_row(
    group_names: dict[str, str],
    measures: list[int],
    user_names: dict[str, str],
) -> UsageRow:
    fields: dict[str, Any] = dict.fromkeys(DIMENSION_FIELDS, "")
    fields |= group_names
    user_id = fields["user"]
    fields["user"] = user_names.get(user_id, user_id)

    fields |= zip(USAGE_MEASURES, measures, strict=True)
    cost_nano_usd = fields.pop("cost_nano_usd")
    saved_nano_usd = fields.pop("saved_nano_usd")
    return UsageRow(**fields, cost_usd=cost_nano_usd / NANO, saved_usd=saved_nano_usd / NANO)
