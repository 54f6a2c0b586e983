"""Facts that have outlived their time: named in the plan, and too old to buy by."""

from __future__ import annotations

from collections.abc import Callable

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.freshness import parse_as_of
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.records import Fact
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.violations import make_miss


def list_stale_prices(drafts: tuple[OptionDraft, ...], catalog: Catalog) -> tuple[str, ...]:
    """The prices of every option's machines that are past their time."""
    rows: dict[str, Fact] = {}
    for draft in drafts:
        for fleet in draft.fleets:
            row = fleet.offer or fleet.node
            if row is not None:
                rows[row.id] = row
    return catalog.describe_stale_facts(rows.values())


def refuse_expired_prices(draft: OptionDraft, catalog: Catalog) -> OptionDraft:
    """Nobody should buy by an expired price."""
    expired = tuple(node.id for node in _list_bought_nodes(draft) if not catalog.may_advise_buying(node))
    if not expired:
        return draft
    miss = make_miss("stale_facts", ", ".join(expired), "a price that has not expired")
    return draft._replace(misses=(*draft.misses, miss))


def note_undated_prices(draft: OptionDraft) -> tuple[str, ...]:
    """A price without a date may be older than one that has expired: nobody can say, so it is asked for first."""
    undated = ", ".join(node.id for node in _list_bought_nodes(draft) if parse_as_of(node.as_of) is None)
    return (f"quote first: the price of {undated} has no date and is no offer",) if undated else ()


def prefer_unexpired_prices(
    fresh: BuiltOption, stale: BuiltOption, catalog: Catalog, said: Callable[[float], str]
) -> BuiltOption:
    """Of an option without machines of expired prices and the same with them: the first, saying what the second would
    save, which `said` words, where it keeps as many limits.
    """
    old = stale._replace(draft=refuse_expired_prices(stale.draft, catalog))
    if old.draft == stale.draft or len(fresh.draft.misses) >= max(1, len(old.draft.misses)):
        return old
    less = _sum_usd(fresh.draft) - _sum_usd(stale.draft)
    if stale.draft.misses or stale.draft.terms is None or less <= 0:
        return fresh
    expired = next(miss.value for miss in old.draft.misses if miss.constraint == "stale_facts")
    saved = f"it would cost {said(less)} less over the horizon: --accept-stale"
    note = f"with {expired}, whose price has expired, {saved}"
    return fresh._replace(draft=fresh.draft._replace(notes=(*fresh.draft.notes, note)))


def _list_bought_nodes(draft: OptionDraft) -> tuple[ServerSpec, ...]:
    bought = (fleet.node for fleet in draft.fleets if fleet.purchase == "bought" and fleet.node is not None)
    return tuple(dict.fromkeys(bought))


def _sum_usd(draft: OptionDraft) -> float:
    return sum(term.sum for term in draft.terms or ())
