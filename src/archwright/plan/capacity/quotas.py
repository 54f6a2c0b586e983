"""Whether so much is to be had at once. No price list promises it: the catalog says, for each kind of provider, what an
ordinary customer gets without a contract, and the most that one brings. Above the first an option is at risk and comes
after those that are not (`selection`); above the second it is missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.catalog.catalog import Catalog
from archwright.plan.accounting.budget import UNVERIFIED
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.demand.forecast import Demand
from archwright.plan.violations import Misses, build_violation

TOKEN_QUOTA, HOST_QUOTA = "quota.tokens", "quota.hosts"
PLACEMENT_QUOTAS = {"serverless": "quota.serverless", "on-premises": "quota.bought"}


def check_machine_quotas(fleets: Iterable[MachineFleet], catalog: Catalog) -> tuple[Misses, tuple[str, ...]]:
    """Everything at one provider at once; owned machines are there already."""
    counts = Counter[tuple[str, str]]()
    for fleet in fleets:
        if fleet.purchase != "owned" and fleet.where.placement != "this-machine":
            each = max(fleet.machine.accelerator_count, 1)
            counts[fleet.where.provider, _select_quota(fleet, catalog)] += fleet.peak * each
    found = [_check_quota(provider, quota, float(count), catalog) for (provider, quota), count in counts.items()]
    return tuple(miss for misses, _ in found for miss in misses), tuple(note for _, notes in found for note in notes)


def check_token_quota(demand: Demand, provider: str, catalog: Catalog) -> tuple[Misses, tuple[str, ...]]:
    """Tokens a second at the busiest moment of the horizon, bought from one provider."""
    each = demand.input_tokens.mean + demand.output_tokens.mean
    return _check_quota(provider, TOKEN_QUOTA, demand.peak_at_horizon * each, catalog)


def _select_quota(fleet: MachineFleet, catalog: Catalog) -> str:
    if fleet.machine.accelerator is None:
        return HOST_QUOTA
    own = PLACEMENT_QUOTAS.get(fleet.where.placement, f"quota.{fleet.where.provider}")
    return own if own in catalog.parts else "quota.other"


def _check_quota(provider: str, quota: str, count: float, catalog: Catalog) -> tuple[Misses, tuple[str, ...]]:
    held, unit = catalog.parameter(quota), catalog.parts[quota].unit
    if count > held.high:
        return (build_violation(f"capacity of {provider}, {unit}", count, held.high),), ()
    note = (
        f"{UNVERIFIED}capacity needs a contract: {count:,.0f} {unit} at once at {provider}; an ordinary customer gets "
        f"about {held.value:,.0f} (assumed, {held.low:,.0f} .. {held.high:,.0f}); ask for a quota first"
    )
    return (), (note,) if count > held.value else ()
