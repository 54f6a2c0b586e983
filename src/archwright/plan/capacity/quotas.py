"""Provider quotas: the capacity that a customer gets at one time.

The catalog states, for each kind of provider, the usual quota without a contract and the maximum with a contract (no
price list guarantees either). The quota is a limit with a probability like any other, so an option above the usual
quota ranks after others (`selection`). Above the maximum, the option is not feasible.
"""

from collections import Counter
from collections.abc import Iterable

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Budget
from archwright.contract.number_format import format_estimate, format_number
from archwright.contract.plan import assess_limit
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.capacity.service_levels import CheckedLevel
from archwright.plan.demand.forecast import Demand
from archwright.plan.violations import build_violation

# Prefix of the constraint of a broken quota.
QUOTA_MISS = "capacity of "
TOKEN_QUOTA, HOST_QUOTA = "quota.tokens", "quota.hosts"
PLACEMENT_QUOTAS = {"serverless": "quota.serverless", "on-premises": "quota.bought"}


def check_machine_quotas(fleets: Iterable[MachineFleet], budget: Budget, catalog: Catalog) -> CheckedLevel:
    """Check the sum of all machines at each provider; owned machines need no quota."""
    counts = Counter[tuple[str, str]]()
    for fleet in fleets:
        if fleet.purchase != "owned" and fleet.where.placement != "this-machine":
            own = PLACEMENT_QUOTAS.get(fleet.where.placement, f"quota.{fleet.where.provider}")
            quota = own if own in catalog.parts else "quota.other"
            quota = quota if fleet.machine.accelerator is not None else HOST_QUOTA
            counts[fleet.where.provider, quota] += fleet.peak * max(fleet.machine.accelerator_count, 1)
    found = [_check_quota(one, float(count), budget.certainty, catalog) for one, count in counts.items()]
    return CheckedLevel(*(tuple(item for each in parts for item in each) for parts in zip(*found, strict=True)))


def check_token_quota(demand: Demand, provider: str, catalog: Catalog) -> CheckedLevel:
    """Check the tokens per second at the peak of the horizon, bought from one provider."""
    each = demand.input_tokens.mean + demand.output_tokens.mean
    needed, certainty = demand.peak_at_horizon * each, demand.workload.slo.certainty
    return _check_quota((provider, TOKEN_QUOTA), needed, certainty, catalog)


def _check_quota(kind: tuple[str, str], count: float, certainty: float, catalog: Catalog) -> CheckedLevel:
    """`kind`: the provider and the catalog part with its quota."""
    (provider, part), unit = kind, catalog.parts[kind[1]].unit
    quota, name = catalog.parameter(part), f"{QUOTA_MISS}{provider}, {unit}"
    if count > quota.high:
        return CheckedLevel(misses=(build_violation(name, count, quota.high),))
    assessed = assess_limit((name, count, certainty), quota, at_least=True, basis="assumed quota without a contract")
    note = (
        f"the option needs {format_number(count)} {unit} at {provider}. The usual quota without a contract is about "
        f"{format_estimate(quota)}, as assumed. Request a higher quota first"
    )
    return CheckedLevel((assessed,) if count > quota.low else (), notes=(note,) if count > quota.value else ())
