"""Facts that have outlived their time: named in the plan, and too old to buy by."""

from __future__ import annotations

from collections.abc import Callable

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.freshness import date_of
from archwright.catalog.tables.cost_records import Node
from archwright.catalog.tables.records import Fact
from archwright.contract.plan import Miss
from archwright.plan.accounting.budget import Draft
from archwright.plan.options.option_builder import Built


def stale_facts(drafts: tuple[Draft, ...], catalog: Catalog) -> tuple[str, ...]:
    """The prices of every option's machines that are past their time."""
    rows: dict[str, Fact] = {}
    for draft in drafts:
        for fleet in draft.fleets:
            row = fleet.offer or fleet.node
            if row is not None:
                rows[row.id] = row
    return catalog.stale(rows.values())


def refuse_stale(draft: Draft, catalog: Catalog) -> Draft:
    """Nobody should buy by an expired price."""
    expired = tuple(node.id for node in _bought(draft) if not catalog.may_advise_buying(node))
    if not expired:
        return draft
    miss = Miss(constraint="stale_facts", value=", ".join(expired), limit="a price that has not expired")
    return draft._replace(misses=(*draft.misses, miss))


def to_quote(draft: Draft) -> tuple[str, ...]:
    """A price without a date may be older than one that has expired: nobody can say, so it is asked for first."""
    undated = ", ".join(node.id for node in _bought(draft) if date_of(node.as_of) is None)
    return (f"quote first: the price of {undated} has no date and is no offer",) if undated else ()


def fresh_or_stale(fresh: Built, stale: Built, catalog: Catalog, said: Callable[[float], str]) -> Built:
    """Of an option without machines of expired prices and the same with them: the first, saying what the second would
    save, which `said` words, where it keeps as many limits.
    """
    old = stale._replace(draft=refuse_stale(stale.draft, catalog))
    if old.draft == stale.draft or len(fresh.draft.misses) >= max(1, len(old.draft.misses)):
        return old
    less = _usd(fresh.draft) - _usd(stale.draft)
    if stale.draft.misses or stale.draft.terms is None or less <= 0:
        return fresh
    expired = next(miss.value for miss in old.draft.misses if miss.constraint == "stale_facts")
    saved = f"it would cost {said(less)} less over the horizon: --accept-stale"
    note = f"with {expired}, whose price has expired, {saved}"
    return fresh._replace(draft=fresh.draft._replace(notes=(*fresh.draft.notes, note)))


def _bought(draft: Draft) -> tuple[Node, ...]:
    bought = (fleet.node for fleet in draft.fleets if fleet.purchase == "bought" and fleet.node is not None)
    return tuple(dict.fromkeys(bought))


def _usd(draft: Draft) -> float:
    return sum(term.sum for term in draft.terms or ())
