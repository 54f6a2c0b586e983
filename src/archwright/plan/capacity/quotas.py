"""Provider quotas: the capacity that a customer gets at one time.

The catalog states, for each kind of provider, the usual quota without a contract and the maximum with a contract (no
price list guarantees either). Above the usual quota, an option is at risk and ranks after options without a risk
(`selection`). Above the maximum, the option is not feasible.
"""

from collections import Counter
from collections.abc import Iterable

from archwright.catalog.catalog import Catalog
from archwright.plan.accounting.budget import UNVERIFIED
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.demand.forecast import Demand
from archwright.plan.violations import Misses, build_violation

# Prefix of the constraint of a broken quota.
QUOTA_MISS = "capacity of "
TOKEN_QUOTA, HOST_QUOTA = "quota.tokens", "quota.hosts"
PLACEMENT_QUOTAS = {"serverless": "quota.serverless", "on-premises": "quota.bought"}


def check_machine_quotas(fleets: Iterable[MachineFleet], catalog: Catalog) -> tuple[Misses, tuple[str, ...]]:
    """Check the sum of all machines at each provider; owned machines need no quota."""
    counts = Counter[tuple[str, str]]()
    for fleet in fleets:
        if fleet.purchase != "owned" and fleet.where.placement != "this-machine":
            own = PLACEMENT_QUOTAS.get(fleet.where.placement, f"quota.{fleet.where.provider}")
            quota = own if own in catalog.parts else "quota.other"
            quota = quota if fleet.machine.accelerator is not None else HOST_QUOTA
            counts[fleet.where.provider, quota] += fleet.peak * max(fleet.machine.accelerator_count, 1)
    found = [_check_quota(provider, quota, float(count), catalog) for (provider, quota), count in counts.items()]
    return tuple(miss for misses, _ in found for miss in misses), tuple(note for _, notes in found for note in notes)


def check_token_quota(demand: Demand, provider: str, catalog: Catalog) -> tuple[Misses, tuple[str, ...]]:
    """Check the tokens per second at the peak of the horizon, bought from one provider."""
    each = demand.input_tokens.mean + demand.output_tokens.mean
    return _check_quota(provider, TOKEN_QUOTA, demand.peak_at_horizon * each, catalog)


def _check_quota(provider: str, part: str, count: float, catalog: Catalog) -> tuple[Misses, tuple[str, ...]]:
    quota, unit = catalog.parameter(part), catalog.parts[part].unit
    if count > quota.high:
        return (build_violation(f"{QUOTA_MISS}{provider}, {unit}", count, quota.high),), ()
    note = (
        f"{UNVERIFIED}the option needs {count:,.0f} {unit} at {provider}. The usual quota without a contract is about "
        f"{quota.value:,.0f} (assumed, {quota.low:,.0f} .. {quota.high:,.0f}). Request a higher quota first"
    )
    return (), (note,) if count > quota.value else ()
