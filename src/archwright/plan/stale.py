"""Facts that have outlived their time: named in the plan, and too old to buy by."""

from __future__ import annotations

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import Fact
from archwright.contract.plan import Miss
from archwright.plan.money import Draft


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
    bought = dict.fromkeys(
        fleet.node for fleet in draft.fleets if fleet.purchase == "bought" and fleet.node is not None
    )
    expired = tuple(node.id for node in bought if not catalog.may_advise_buying(node))
    if not expired:
        return draft
    miss = Miss(constraint="stale_facts", value=", ".join(expired), limit="a price that has not expired")
    return draft._replace(misses=(*draft.misses, miss))
