"""What was asked of the gateway and what it cost, by whom and by what."""

from __future__ import annotations

from datetime import UTC, datetime

from archwright.contract.record import Record
from archwright.errors import ErrorLocation, UsageError
from archwright.home import Home
from archwright.monitor.usage_totals import DAY_S, NANO, TOTAL_OF, Total
from archwright.monitor.wal.compaction import fold_orphans, totals
from archwright.store import Store

COLUMNS = {"tenant": "tenant", "key": "key_id", "user": "user", "model": "model", "day": "day"}


class Usage(Record):
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


def usage_of(store: Store, home: Home, tenant: str | None, by: str) -> tuple[Usage, ...]:
    """Requests, tokens and money by any of tenant, key, user, model and day, joined by commas, to this moment.

    Copies sent to a shadow model are nobody's requests and left out. Raises UsageError AW-USE-66 for other words.
    """
    words = tuple(dict.fromkeys(word.strip() for word in by.split(",") if word.strip()))
    unknown = [word for word in words if word not in COLUMNS]
    if unknown:
        hint = f"any of {', '.join(COLUMNS)}, joined by commas"
        raise UsageError(
            "AW-USE-66", f"usage cannot be told by {unknown[0]!r}", where=ErrorLocation(field="by"), hint=hint
        )
    fold_orphans(store, home)
    columns = dict.fromkeys((*(COLUMNS[word] for word in words), "tenant", "shadow"))
    found = [one for one in totals(store, home, tuple(columns)) if not one.shadow and tenant in (None, one.tenant)]
    return _lines(found, words)


def _lines(found: list[Total], words: tuple[str, ...]) -> tuple[Usage, ...]:
    """One line for each value of `words`, the tenant no longer told apart where it is none of them."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for one in found:
        line = sums.setdefault(tuple(_name(one, word) for word in words), [0] * len(TOTAL_OF))
        line[:] = [value + getattr(one, name) for value, name in zip(line, TOTAL_OF, strict=True)]
    return tuple(_line(dict(zip(words, key, strict=True)), line) for key, line in sorted(sums.items()))


def _name(one: Total, word: str) -> str:
    if word == "day":
        return datetime.fromtimestamp(one.day * DAY_S, UTC).date().isoformat()
    return str(getattr(one, COLUMNS[word]))


def _line(names: dict[str, str], sums: list[int]) -> Usage:
    requests, hits, input_tokens, output_tokens, cost, saved = sums
    return Usage(
        tenant=names.get("tenant", ""),
        key=names.get("key", ""),
        user=names.get("user", ""),
        model=names.get("model", ""),
        day=names.get("day", ""),
        requests=requests,
        hits=hits,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=cost / NANO,
        saved_usd=saved / NANO,
    )
