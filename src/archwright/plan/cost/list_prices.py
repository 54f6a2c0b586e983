"""Prices of machines as facts of the ledger: one basis for each, whoever pays for it."""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.records import Offer
from archwright.contract.estimate import Estimate
from archwright.plan.accounting.budget import USD
from archwright.plan.accounting.provenance import PlanProvenance


def node_price(node: ServerSpec, catalog: Catalog, ledger: PlanProvenance) -> Estimate:
    """What one costs that is bought, as far apart as quotes are."""
    basis = ledger.create_basis(
        f"price.node.{node.id}",
        "quoted",
        "price of one machine, bought",
        formula="typical price; band: the lowest and highest quoted, wider as they age",
        facts=(f"{node.id}: {node.price_usd:,.0f} {USD}, {node.source}, {node.as_of or 'undated'}",),
        stratum="purchase price",
    )
    aged = catalog.estimate(node, node.price_usd, USD, basis)
    low, high = min(aged.low, node.price_low_usd), max(aged.high, node.price_high_usd)
    return Estimate(value=node.price_usd, low=low, high=high, unit=USD, basis=basis)


def hour_price(offer: Offer, catalog: Catalog, ledger: PlanProvenance) -> Estimate:
    """An hour of one that is rented, at its list price."""
    price = offer.on_demand_usd_per_hour or 0.0
    basis = ledger.create_basis(
        f"price.{offer.id}",
        "quoted",
        "on-demand price of one machine for an hour",
        formula=f"{offer.price_kind} price, banded by its age and how surely it is known",
        facts=(f"{offer.id}: {price:g} USD/h, {offer.source}, {offer.as_of or 'undated'}",),
        stratum=f"{offer.price_kind} price",
    )
    return catalog.estimate(offer, price, f"{USD}/h", basis)
