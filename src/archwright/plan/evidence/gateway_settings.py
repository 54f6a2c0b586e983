"""Settings of the gateway from a plan: data classes, residency, pools, token prices, queue timeouts, worker processes.

Design: the token price recovers the cost of the serving machines over the horizon: purchase, support, parts, renewal,
residual value, energy, rent. Workloads that share machines split the cost by their work. Storage, network, rented
space, the platform and staff are not part of the token price. A workload has one price at all places. The price ratio
of output to input tokens is the median of the hosted prices; hosted models have their list price.

Design: an admitted request can still meet its TTFT limit. It may wait for an own engine for the TTFT limit minus the
TTFT predicted at the peak with a free slot (p95, slowest pool); after that it overflows. It is refused if the wait
exceeds both that time and the p99 wait at the planned peak (slow end of the band, at most the limit itself).
"""

import statistics
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import HostedModel
from archwright.contract.needs import PRIVATE_SENSITIVITIES, Needs, Sensitivity, Workload
from archwright.contract.number_format import format_exact, format_number, format_share
from archwright.contract.plan import Launch, Pool, QueueTimeouts, TokenPrice, WorkloadPlan
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.control_plane import ControlPlaneSizer
from archwright.plan.demand.data_residency import (
    UNRESTRICTED,
    ResidencyBounds,
    collect_bounds,
    is_country_inside,
    is_place_inside,
    is_region_inside,
)
from archwright.plan.demand.forecast import Demand, list_steady_demands, list_text_demands
from archwright.plan.demand.specialist_models import list_evidence
from archwright.plan.explain.formatting import describe_load
from archwright.simulate.queue_latency import QueueLatencyPrediction

# From the least to the most sensitive class.
SENSITIVITY_ORDER: tuple[Sensitivity, ...] = get_args(Sensitivity)
# Concurrent requests of one gateway to a provider, which enforces its own limits.
UPSTREAM_SLOTS = 512
# Hosted providers whose protocol is not that of OpenAI.
PROTOCOLS = {"anthropic": "anthropic"}
QueuePredictions = Mapping[str, tuple[QueueLatencyPrediction, ...]]
NO_QUEUES: QueuePredictions = MappingProxyType({})


class GatewaySettings(NamedTuple):
    """`pools` are those of the option, with prices; `upstreams` stand for models paid by the token."""

    workloads: tuple[WorkloadPlan, ...]
    pools: tuple[Pool, ...] = ()
    upstreams: tuple[Pool, ...] = ()
    workers: int = 1


def build_gateway_settings(
    needs: Needs, catalog: Catalog, draft: OptionDraft | None, predicted: QueuePredictions = NO_QUEUES
) -> GatewaySettings:
    """`draft`: that of the chosen option, None if nothing was feasible; `predicted`: its queues by workload."""
    if draft is None:
        return GatewaySettings(_plan_workloads(needs, catalog, (), {}))
    prices = dict(_price_tokens(needs, catalog, draft))
    pools = tuple(replace(pool, price_per_token=prices.get(pool.workloads[0])) for pool in draft.pools)
    waits, workers = derive_queue_timeouts(needs, predicted), 1
    if draft.placement != "this-machine":
        # One worker per core at the first year's peak; on this machine the engines need the other cores.
        workers = ControlPlaneSizer(needs, catalog, PlanProvenance()).gateway_workers
    return GatewaySettings(
        tuple(replace(one, waits=waits.get(one.name)) for one in _plan_workloads(needs, catalog, pools, draft.models)),
        pools,
        tuple(_list_upstreams(needs, catalog, draft)),
        workers,
    )


def find_strictest_class(needs: Needs, workload: Workload) -> Sensitivity | None:
    found = (data.sensitivity for data in needs.data if data.name in workload.data)
    return max(found, key=SENSITIVITY_ORDER.index, default=None)


def list_allowed_countries(
    needs: Needs, catalog: Catalog, workload: Workload, pools: Iterable[Pool]
) -> tuple[str, ...]:
    """Countries inside all residency bounds of the workload.

    Private data without bounds may go anywhere, as the needs state. For other data without bounds the result is empty,
    because the needs do not state where private data in such requests may go.
    """
    bounds = collect_bounds(needs, workload)
    if not bounds:
        return (UNRESTRICTED,) if find_strictest_class(needs, workload) in PRIVATE_SENSITIVITIES else ()
    inside = {country for country in catalog.countries if is_country_inside(catalog, bounds, country)}
    # The gateway knows countries only: a bound that names a region becomes the country of the pools in that region.
    for pool in pools:
        if workload.name in pool.workloads and is_region_inside(catalog, bounds, pool.provider, pool.region):
            inside.add(pool.country)
    return tuple(sorted(inside - {""}))


def map_stricter_residency(
    needs: Needs, catalog: Catalog, workload: Workload, pools: Iterable[Pool]
) -> dict[Sensitivity, tuple[str, ...]]:
    """Allowed countries per private class that is stricter than the workload's own: the bounds of both apply.

    Classes without data in the needs are left out; so are workloads that do not handle private data.
    """
    own, found = find_strictest_class(needs, workload), dict[Sensitivity, tuple[str, ...]]()
    for one in SENSITIVITY_ORDER[SENSITIVITY_ORDER.index(own) + 1 :] if own in PRIVATE_SENSITIVITIES else ():
        names = tuple(data.name for data in needs.data if data.sensitivity == one)
        if names:
            both = replace(workload, data=(*workload.data, *names))
            found[one] = list_allowed_countries(needs, catalog, both, pools)
    return found


def _plan_workloads(
    needs: Needs, catalog: Catalog, pools: tuple[Pool, ...], models: Mapping[str, str]
) -> tuple[WorkloadPlan, ...]:
    # If several pools share a load, the pool that lasts longest comes first.
    lasting = sorted(pools, key=lambda pool: pool.shares[::-1], reverse=True)
    return tuple(
        WorkloadPlan(
            name=workload.name,
            model=models.get(workload.name),
            pools=tuple(pool.name for pool in lasting if workload.name in pool.workloads),
            licence=workload.licence,
            data_class=find_strictest_class(needs, workload),
            residency=list_allowed_countries(needs, catalog, workload, pools),
            residency_of=map_stricter_residency(needs, catalog, workload, pools),
            evidence=list_evidence(workload, models.get(workload.name, ""), catalog),
            load=describe_load(workload),
            kind=workload.kind,
            data=workload.data,
        )
        for workload in needs.workloads
    )


def _price_tokens(needs: Needs, catalog: Catalog, draft: OptionDraft) -> Iterable[tuple[str, TokenPrice]]:
    paid = (row for row in catalog.hosted if row.input_usd_per_token > 0)
    ratios = [row.output_usd_per_token / row.input_usd_per_token for row in paid]
    ratio = round(statistics.median(ratios), 1)
    prices = f"the median of {len(ratios)} hosted prices in the catalog"
    rule = f"an output token counts as {format_exact(ratio)} input tokens, {prices}"
    for demand in list_steady_demands(needs):
        name, requests = demand.workload.name, demand.requests_per_month * sum(demand.growth)
        terms = [term for term in draft.terms or () if name in term.machines_of]
        usd = sum(term.sum * _compute_workload_share(draft.fleets, name, term.machines_of) for term in terms)
        reads, writes = requests * demand.input_tokens.mean, requests * demand.output_tokens.mean
        if usd > 0 and reads + writes > 0:
            months = len(demand.growth)
            each = usd / (reads + ratio * writes)
            source = (
                f"machines of {name}, {format_number(usd / months, 4)} USD per month, mean over the horizon, for "
                f"{format_number(reads / months, 4)} input and {format_number(writes / months, 4)} output tokens; "
                f"{rule}"
            )
            yield name, TokenPrice(input_usd=each, output_usd=ratio * each, source=source)


def _compute_workload_share(fleets: tuple[MachineFleet, ...], name: str, names: tuple[str, ...]) -> float:
    """The workload's share of shared machines: by work, or equal shares if the work is unknown."""
    works = [{one: fleet.work.get(one, 0.0) for one in names} for fleet in fleets if fleet.workloads == names]
    whole = sum(sum(work.values()) for work in works)
    return sum(work[name] for work in works) / whole if whole > 0 else 1 / len(names)


def _list_upstreams(needs: Needs, catalog: Catalog, draft: OptionDraft) -> Iterable[Pool]:
    if draft.placement != "hosted-api":
        return
    for demand in list_text_demands(needs):
        wanted = (draft.provider, draft.models[demand.workload.name])
        rows = [row for row in catalog.hosted if (row.provider, row.id) == wanted]
        reads, writes = demand.input_tokens.mean, demand.output_tokens.mean
        row = min(rows, key=lambda one: reads * one.input_usd_per_token + writes * one.output_usd_per_token)
        bounds = collect_bounds(needs, demand.workload)
        yield _build_upstream(row, demand, _find_processing_country(catalog, bounds, row))


def _build_upstream(row: HostedModel, demand: Demand, country: str) -> Pool:
    protocol = PROTOCOLS.get(row.provider)
    return Pool(
        name=demand.workload.name,
        model=row.id,
        workloads=(demand.workload.name,),
        placement="hosted-api",
        provider=row.provider,
        region=country,
        country=country,
        machine="",
        accelerator="",
        accelerator_count=0,
        replicas=1,
        slots=UPSTREAM_SLOTS,
        context_tokens=row.context_tokens or demand.context_tokens,
        # A slot for this load: reservations of half the model's context would fill a budget.
        default_max_tokens=max(1, demand.context_tokens),
        quantisation="",
        launch=Launch(engine="external", settings={"protocol": protocol} if protocol else {}, health_path=""),
        price_per_token=TokenPrice(
            input_usd=row.input_usd_per_token,
            output_usd=row.output_usd_per_token,
            source=f"{row.provider} {row.id}: {row.source}, {row.as_of or 'undated'}",
        ),
    )


def _find_processing_country(catalog: Catalog, bounds: ResidencyBounds, row: HostedModel) -> str:
    """The first country that processes the model's requests; "" if unknown or if any is outside the bounds."""
    places = catalog.hosted_places(row.provider, row.id) or ()
    if not all(is_place_inside(catalog, bounds, place) for place in places):
        return ""
    rows = (one for one in catalog.countries.values() if {one.country, *one.places} & {*places})
    return min((one.country for one in rows), default="")


# Minimum wait of a request, as a share of the limit.
MIN_WAIT_SHARE = 0.1


def derive_queue_timeouts(needs: Needs, predicted: QueuePredictions) -> dict[str, QueueTimeouts]:
    """Timeouts by workload; `predicted` holds the queue prediction of each pool."""
    limits, timeouts = {workload.name: workload.slo.ttft_p95_s for workload in needs.workloads}, {}
    for name, found in predicted.items():
        limit = limits.get(name)
        if limit is None:
            continue
        served = max(one.served_p95_s.value for one in found)
        planned = min(limit, max(one.wait_p99_s.high for one in found))
        least = MIN_WAIT_SHARE * limit
        left = max(limit - served, least)
        floor = f", at least {format_share(MIN_WAIT_SHARE)} of the limit" if left == least else ""
        beyond = (
            f"; refused beyond {format_number(planned)} s, the p99 wait at the planned peak" if planned > left else ""
        )
        timeouts[name] = QueueTimeouts(
            wait_s=_round_seconds(max(left, planned)),
            overflow_s=_round_seconds(left),
            source=(
                f"TTFT p95 of {format_exact(limit)} s less {format_number(served)} s, predicted for a free slot at the "
                f"peak{floor}{beyond}"
            ),
        )
    return timeouts


def _round_seconds(seconds: float) -> float:
    return float(f"{seconds:.3g}")
