"""What a plan tells its gateway: the class of a workload's data and where they may go, where each pool stands, what a
token of it is billed at, and how many processes the gateway takes.

Decides that tokens are billed at what the plan pays for the machines that answer, over the horizon: purchase, support,
parts, renewal, worth at the end, energy, rent; what several workloads share by the work each brings. Storage, network,
rented space, the platform and people are in no token. A workload has one price, wherever it is answered: who came while
the own machines were full pays no more. An output token counts as many input ones as in the middle of the catalog's
hosted prices; what is bought by the token is billed at its list price.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import HostedModel
from archwright.contract.needs import PRIVATE, Needs, Sensitivity, Workload
from archwright.contract.plan import Launch, Pool, TokenPrice, WorkloadPlan
from archwright.contract.record import replace
from archwright.plan.accounting.budget import Draft
from archwright.plan.accounting.fleet import Fleet
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.capacity.served_load import default_max_tokens
from archwright.plan.cost.control_plane import Platform
from archwright.plan.demand.data_residency import (
    ANYWHERE,
    Bounds,
    bounds_of,
    country_inside,
    place_inside,
    region_inside,
)
from archwright.plan.demand.forecast import Demand, steady_demands, text_demands
from archwright.plan.demand.queue_timeouts import waits_of
from archwright.simulate.queue_latency import Queueing

# From the mildest to the strictest.
CLASSES: tuple[Sensitivity, ...] = get_args(Sensitivity)
# What one gateway asks at once of a provider, whose limits are its own.
UPSTREAM_SLOTS = 512
MOST_WORKERS = 64
# Hosted providers that do not speak OpenAI's protocol.
PROTOCOLS = {"anthropic": "anthropic"}
NOTHING: Mapping[str, tuple[Queueing, ...]] = MappingProxyType({})


class Told(NamedTuple):
    """`pools` are the option's, with prices; `upstreams` stand for what it buys by the token."""

    workloads: tuple[WorkloadPlan, ...]
    pools: tuple[Pool, ...] = ()
    upstreams: tuple[Pool, ...] = ()
    workers: int = 1


def tell(
    needs: Needs, catalog: Catalog, draft: Draft | None, predicted: Mapping[str, tuple[Queueing, ...]] = NOTHING
) -> Told:
    """`draft` is the chosen option's, None where nothing was feasible; `predicted` what was of the queues of its pools,
    by workload."""
    if draft is None:
        return Told(_workloads(needs, catalog, (), {}))
    prices = dict(_prices(needs, catalog, draft))
    pools = tuple(replace(pool, price_per_token=prices.get(pool.workloads[0])) for pool in draft.pools)
    waits = waits_of(needs, predicted)
    return Told(
        tuple(replace(one, waits=waits.get(one.name)) for one in _workloads(needs, catalog, pools, draft.models)),
        pools,
        tuple(_upstreams(needs, catalog, draft)),
        _workers(needs, catalog, draft),
    )


def data_class(needs: Needs, workload: Workload) -> Sensitivity | None:
    """The strictest of what the workload works on."""
    found = (data.sensitivity for data in needs.data if data.name in workload.data)
    return max(found, key=CLASSES.index, default=None)


def residency(needs: Needs, catalog: Catalog, workload: Workload, pools: Iterable[Pool]) -> tuple[str, ...]:
    """Countries inside all that bounds the workload. Data of people without bounds may go anywhere, the needs say so;
    of other data without bounds nobody says where those of people among them may go.
    """
    bounds = bounds_of(needs, workload)
    if not bounds:
        return (ANYWHERE,) if data_class(needs, workload) in PRIVATE else ()
    inside = {country for country in catalog.countries if country_inside(catalog, bounds, country)}
    # A gateway knows countries: a region that is named is the country of the pools in it.
    for pool in pools:
        if workload.name in pool.workloads and region_inside(catalog, bounds, pool.provider, pool.region):
            inside.add(pool.country)
    return tuple(sorted(inside - {""}))


def stricter(
    needs: Needs, catalog: Catalog, workload: Workload, pools: Iterable[Pool]
) -> dict[Sensitivity, tuple[str, ...]]:
    """Where stricter data of people than a workload's may go, if a caller sends such: inside what bounds both. Of a
    class the needs have no data of nobody says, nor to a workload that is not for data of people.
    """
    own, found = data_class(needs, workload), dict[Sensitivity, tuple[str, ...]]()
    for one in CLASSES[CLASSES.index(own) + 1 :] if own in PRIVATE else ():
        names = tuple(data.name for data in needs.data if data.sensitivity == one)
        if names:
            both = replace(workload, data=(*workload.data, *names))
            found[one] = residency(needs, catalog, both, pools)
    return found


def _workloads(
    needs: Needs, catalog: Catalog, pools: tuple[Pool, ...], models: Mapping[str, str]
) -> tuple[WorkloadPlan, ...]:
    # Of several that share a load, the one that is there the longest comes first.
    lasting = sorted(pools, key=lambda pool: pool.shares[::-1], reverse=True)
    return tuple(
        WorkloadPlan(
            name=workload.name,
            model=models.get(workload.name),
            pools=tuple(pool.name for pool in lasting if workload.name in pool.workloads),
            data_class=data_class(needs, workload),
            residency=residency(needs, catalog, workload, pools),
            residency_of=stricter(needs, catalog, workload, pools),
        )
        for workload in needs.workloads
    )


def _prices(needs: Needs, catalog: Catalog, draft: Draft) -> Iterable[tuple[str, TokenPrice]]:
    ratios = [
        row.output_usd_per_token / row.input_usd_per_token for row in catalog.hosted if row.input_usd_per_token > 0
    ]
    ratio = round(statistics.median(ratios), 1)
    rule = f"an output token counts as {ratio:g} of input, the middle of {len(ratios)} hosted prices in the catalog"
    for demand in steady_demands(needs):
        usd, (reads, writes) = _machines_usd(draft, demand.workload.name), _tokens(demand)
        if usd > 0 and reads + writes > 0:
            months = len(demand.growth)
            each = usd / (reads + ratio * writes)
            source = (
                f"machines of {demand.workload.name}, {usd / months:.4g} USD a month, mean over the horizon, for "
                f"{reads / months:.4g} tokens in and {writes / months:.4g} out; {rule}"
            )
            yield demand.workload.name, TokenPrice(input_usd=each, output_usd=ratio * each, source=source)


def _tokens(demand: Demand) -> tuple[float, float]:
    """Read and written over the horizon."""
    requests = demand.requests_per_month * sum(demand.growth)
    return requests * demand.input_tokens.mean, requests * demand.output_tokens.mean


def _machines_usd(draft: Draft, name: str) -> float:
    """Over the horizon, what is left of them at its end deducted."""
    mine = (term for term in draft.terms or () if name in term.machines_of)
    return sum(term.sum * _share(draft.fleets, name, term.machines_of) for term in mine)


def _share(fleets: tuple[Fleet, ...], name: str, names: tuple[str, ...]) -> float:
    """Of machines that several workloads share: by their work, equally where nobody knows it."""
    works = [{one: fleet.work.get(one, 0.0) for one in names} for fleet in fleets if fleet.workloads == names]
    whole = sum(sum(work.values()) for work in works)
    return sum(work[name] for work in works) / whole if whole > 0 else 1 / len(names)


def _upstreams(needs: Needs, catalog: Catalog, draft: Draft) -> Iterable[Pool]:
    """One for each text that the option buys by the token."""
    if draft.placement != "hosted-api":
        return
    for demand in text_demands(needs):
        wanted = (draft.provider, draft.models[demand.workload.name])
        rows = [row for row in catalog.hosted if (row.provider, row.id) == wanted]
        reads, writes = demand.input_tokens.mean, demand.output_tokens.mean
        row = min(rows, key=lambda one: reads * one.input_usd_per_token + writes * one.output_usd_per_token)
        yield _upstream(row, demand, _country(catalog, bounds_of(needs, demand.workload), row))


def _upstream(row: HostedModel, demand: Demand, country: str) -> Pool:
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
        default_max_tokens=default_max_tokens(demand.output_tokens),
        quantisation="",
        launch=Launch(engine="external", settings={"protocol": protocol} if protocol else {}, health_path=""),
        price_per_token=TokenPrice(
            input_usd=row.input_usd_per_token,
            output_usd=row.output_usd_per_token,
            source=f"{row.provider} {row.id}: {row.source}, {row.as_of or 'undated'}",
        ),
    )


def _country(catalog: Catalog, bounds: Bounds, row: HostedModel) -> str:
    """Where the model is computed: of several countries the first, if all of them are inside what bounds the data;
    none where nobody knows, or one is outside.
    """
    places = catalog.hosted_places(row.provider, row.id) or ()
    if not all(place_inside(catalog, bounds, place) for place in places):
        return ""
    return min(
        (one.country for one in catalog.countries.values() if {one.country, *one.places} & {*places}), default=""
    )


def _workers(needs: Needs, catalog: Catalog, draft: Draft) -> int:
    """As many as the cores that it takes at the peak of the first year; one on the machine at hand, beside engines."""
    if draft.placement == "this-machine":
        return 1
    return min(MOST_WORKERS, max(1, math.ceil(Platform(needs, catalog, Ledger()).gateway_cores)))
