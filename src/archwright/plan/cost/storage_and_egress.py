"""Costs of storage, outbound traffic, and copies between regions.

Every option stores all data of the needs at its own price, existing data included, because they cost every option the
same. On-premises storage is bought year by year.
"""

from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates, sum_estimates
from archwright.contract.needs import TRAINING_KINDS, Workload
from archwright.contract.number_format import format_number
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.availability import SPARE_REQUIRED_ABOVE
from archwright.plan.cost import hardware_lifecycle as lifecycle
from archwright.plan.cost.data_placement import OptionContext
from archwright.plan.cost.prices import TB
from archwright.plan.demand.forecast import derive_batch_job, forecast_demand
from archwright.sizing.infrastructure import network, storage
from archwright.sizing.infrastructure.storage import GIB, StorageTier, StoredData
from archwright.sizing.infrastructure.vector_index import MEMORY_SHARE, IndexForm, VectorIndex, size_vector_index

MEDIUM_PARTS: dict[StorageTier, str] = {
    "object": "storage.disk",
    "archive": "storage.disk",
    "block": "storage.flash",
    "file": "storage.flash",
}
THIS_MACHINE = "this-machine"
# Share of requests that cross zones if two zones share the load evenly.
ZONE_CROSSING_SHARE = 0.5


class StoredItem(NamedTuple):
    kept: StoredData
    where: Location


StoredItems = tuple[StoredItem, ...]


class EgressFlow(NamedTuple):
    """Bytes that leave a place per month, and the catalog parts that they depend on."""

    name: str
    source: Location
    bytes: tuple[float, ...]
    facts: tuple[str, ...] = ()


def list_stored_items(case: OptionContext) -> StoredItems:
    """Return all stored data of an option with their places; the local machine's disk costs nothing."""
    builders = (_list_data_sets, _list_model_files, _list_vector_indexes, _list_logs_and_metrics)
    found = (one for build in builders for one in build(case))
    return tuple(one for one in found if one.where.placement != THIS_MACHINE and one.kept.peak_bytes > 0)


def _list_data_sets(case: OptionContext) -> Iterable[StoredItem]:
    profiles = {data.name: data for data in case.needs.data}
    for kept in storage.list_data_sets(case.needs, case.catalog):
        data = profiles[kept.data]
        home = case.home_location(data) if kept.tier != "archive" else case.backup_location(data)
        if home is not None:
            yield StoredItem(kept, home)
        if kept.tier != "archive":
            for place in case.copy_locations(data):
                yield StoredItem(kept._replace(name=f"{kept.name}, copy", why="a copy where requests use it"), place)


def _list_model_files(case: OptionContext) -> Iterable[StoredItem]:
    """Yield checkpoints, and model files unless a registry or a provider stores them, where the work runs."""
    if not any(line.kind == "registry" for line in case.needs.existing):
        files = storage.list_model_files(case.needs, case.models, case.catalog)
        yield from _locate_at_runs(case, (kept for kept in files if not _has_provider_weights(case, kept.workload)))
    yield from _locate_at_runs(case, storage.list_checkpoints(case.needs, case.models, case.catalog))


def _has_provider_weights(case: OptionContext, workload: str) -> bool:
    """True if the provider stores the weights of a workload; trained weights are stored by the organisation."""
    mine = [fleet for fleet in case.fleets if workload in fleet.workloads]
    tuned = any(one.kind in TRAINING_KINDS and workload in (one.name, one.base) for one in case.needs.workloads)
    if not mine:
        return any(place.placement == "hosted-api" for place in case.where)
    return not tuned and all(fleet.where.placement == "serverless" for fleet in mine)


def _locate_at_runs(case: OptionContext, things: Iterable[StoredData]) -> Iterable[StoredItem]:
    workloads = {workload.name: workload for workload in case.needs.workloads}
    for kept in things:
        for place in case.load_shares(workloads[kept.workload]):
            yield StoredItem(kept, place)


def _list_vector_indexes(case: OptionContext) -> Iterable[StoredItem]:
    for workload in case.needs.workloads:
        months = build_monthly_indexes(case, workload)
        for place in case.load_shares(workload) if months else ():
            form = choose_index_form(case, workload, place)
            stored = tuple(index.footprint(form).stored_bytes for index in months)
            why = f"{format_number(months[-1].vectors.value)} vectors in the last month, index form {form}"
            index = StoredData(f"vector index of {workload.name}", "block", stored, months[-1].facts, why=why)
            yield StoredItem(index, place)


def build_monthly_indexes(case: OptionContext, workload: Workload) -> list[VectorIndex]:
    found = (size_vector_index(case.needs, workload, case.catalog, month + 0.5) for month in range(case.months))
    return [index for index in found if index is not None]


def choose_index_form(case: OptionContext, workload: Workload, place: Location) -> IndexForm:
    largest = max(build_monthly_indexes(case, workload), key=lambda index: index.vectors.value)
    if case.host is not None and place == case.main_location:
        memory: float = case.host.ram_bytes
    else:
        here = (fleet for fleet in case.fleets if fleet.where == place and workload.name in fleet.workloads)
        memory = sum(min(fleet.machines) * fleet.machine.ram_bytes for fleet in here)
    return largest.fastest_fitting(MEMORY_SHARE * memory).form


def _list_logs_and_metrics(case: OptionContext) -> Iterable[StoredItem]:
    """Yield logs and metrics at the main place; an existing monitoring system stores both."""
    if case.main_location is None or any(line.kind == "monitoring" for line in case.needs.existing):
        return
    requests = [0.0] * case.months
    for workload in case.needs.workloads:
        requests = [total + new for total, new in zip(requests, requests_by_month(case, workload), strict=True)]
    yield StoredItem(storage.size_logs(case.needs, tuple(requests), case.catalog), case.main_location)
    machines = [sum(fleet.machines[month] for fleet in case.fleets) for month in range(case.months)]
    days, _ = storage.log_retention_days(case.needs, case.catalog)
    yield StoredItem(storage.size_metrics(tuple(machines), days, case.catalog), case.main_location)


def requests_by_month(case: OptionContext, workload: Workload) -> tuple[float, ...]:
    demand = forecast_demand(workload, case.months)
    if demand is None:
        return (0.0,) * case.months
    return tuple(demand.requests_per_month * growth for growth in demand.growth)


class StorageLineItem(NamedTuple):
    """Stored bytes of one cost line, which is proportional to them and to each of `drivers`."""

    name: str
    where: Location
    tier: StorageTier
    bytes: tuple[float, ...]
    drivers: tuple[str, ...]


def price_storage(case: OptionContext, kept: StoredItems) -> list[CashFlow]:
    terms: list[CashFlow] = []
    for heap in _group_line_items(case, kept):
        if heap.where.placement in OWN_PLACEMENTS:
            terms += _price_own_storage(case, heap)
            continue
        price = case.quotes.storage(heap.where, heap.tier)
        flow = [amount * price.usd for amount in heap.bytes]
        line = f"{heap.name}: {heap.tier} storage{_format_region_suffix(heap.where)}"
        terms.append(make_varying_flow(line, "storage", flow, (*price.drivers, *heap.drivers)))
    return terms


def _group_line_items(case: OptionContext, kept: StoredItems) -> Iterable[StorageLineItem]:
    """Yield each data set and backup separately, and the platform's small files together by place and price."""
    own: dict[tuple[Location, str], list[StoredItem]] = {}
    for one in kept:
        if one.kept.data:
            drivers = case.quotes.drivers(one.kept.facts)
            yield StorageLineItem(one.kept.name, one.where, one.kept.tier, one.kept.bytes, drivers)
        else:
            paid = MEDIUM_PARTS[one.kept.tier] if one.where.placement in OWN_PLACEMENTS else one.kept.tier
            own.setdefault((one.where, paid), []).append(one)
    for (where, _), files in own.items():
        names = ", ".join(dict.fromkeys(one.kept.name.split(" of ")[0] for one in files))
        size = tuple(sum(month) for month in zip(*(one.kept.bytes for one in files), strict=True))
        yield StorageLineItem(names, where, files[0].kept.tier, size, (_register_mean_bytes(case, names, files),))


def _register_mean_bytes(case: OptionContext, names: str, files: list[StoredItem]) -> str:
    """Register the mean sum of several kinds of files, with the intervals of their facts; return its basis."""
    sizes = [(one.kept.facts, exact_estimate(sum(one.kept.bytes) / case.months, "bytes")) for one in files]
    parts = [apply_part_bands(case, rests_on, size) for rests_on, size in sizes]
    facts = [driver for one in files for driver in case.quotes.drivers(one.kept.facts)]
    whole = sum_estimates(parts, "bytes")
    return case.ledger.create_driver(
        whole,
        f"bytes.{files[0].where.region}.{names}.{whole.value:.4g}".lower().replace(", ", "+").replace(" ", "-"),
        "formula",
        f"stored bytes, mean over the horizon: {names}",
        formula="; ".join(f"{one.kept.name}: {one.kept.why}" for one in files),
        facts=tuple(dict.fromkeys(facts)),
    ).basis


def apply_part_bands(case: OptionContext, facts: Iterable[str], size: Estimate, basis: str = "") -> Estimate:
    """Return `size` with the intervals of the catalog parts that it is proportional to."""
    parts = [case.catalog.parameter(name) for name in facts]
    relative = [part.scaled(1 / part.value, unit="") for part in parts]
    return multiply_estimates([*relative, size], size.unit, basis)


def _price_own_storage(case: OptionContext, heap: StorageLineItem) -> list[CashFlow]:
    """Return the purchase of storage media, or a monthly charge over their life if nothing may be bought."""
    price = case.quotes.part(MEDIUM_PARTS[heap.tier])
    unit = price._replace(drivers=(*price.drivers, *heap.drivers))
    terabytes = tuple(amount / TB for amount in heap.bytes)
    medium = "disks" if MEDIUM_PARTS[heap.tier] == "storage.disk" else "flash"
    buys = case.needs.budget.capex > 0
    line = f"{heap.name}: {f'{medium} bought' if buys else f'on-premises {medium}'}{_format_region_suffix(heap.where)}"
    what = lifecycle.HardwarePurchase(line, "storage", unit, terabytes, lifecycle.SERVER_LIFE)
    if buys:
        return lifecycle.price_lifecycle(case.quotes, what)
    case.ledger.add_assumptions("budget.capex 0: on-premises storage is charged monthly over its life")
    return [lifecycle.price_monthly_charge(case.quotes, what)]


def _format_region_suffix(where: Location) -> str:
    return f" in {where.region}" if where.region else ""


def sum_stored_terabytes(kept: StoredItems, where: Location) -> tuple[float, ...]:
    here = [one.kept.bytes for one in kept if one.where == where]
    return tuple(sum(month) / TB for month in zip(*here, strict=True))


def price_egress(case: OptionContext, kept: StoredItems) -> list[CashFlow]:
    """Return outbound traffic by the volume steps of each provider, traffic between regions and between zones."""
    out, between = list_egress_flows(case, kept)
    terms: list[CashFlow] = []
    for source in dict.fromkeys(flow.source for flow in out):
        flows = [flow for flow in out if flow.source == source]
        prices = case.quotes.egress(source)
        whole = [sum(month) for month in zip(*(flow.bytes for flow in flows), strict=True)]
        rate = [prices.cost_usd(amount) / amount if amount else 0.0 for amount in whole]
        line = f"traffic out of {source.region or source.provider}"
        terms += (_price_flow(case, flow, rate, prices.drivers, line) for flow in flows)
    for flow in between:
        price = case.quotes.between_regions(flow.source)
        terms.append(_price_flow(case, flow, [price.usd] * case.months, price.drivers, "traffic between regions"))
    terms += _price_zone_traffic(case)
    return [term for term in terms if term.sum > 0]


def _price_flow(
    case: OptionContext, flow: EgressFlow, rates: list[float], drivers: tuple[str, ...], what: str
) -> CashFlow:
    """`rates`: USD per byte, month by month."""
    usd = [amount * rate for amount, rate in zip(flow.bytes, rates, strict=True)]
    return make_varying_flow(f"{flow.name}: {what}", "egress", usd, (*drivers, *case.quotes.drivers(flow.facts)))


def _price_zone_traffic(case: OptionContext) -> Iterable[CashFlow]:
    """Yield traffic between zones: half of the traffic to machines with spares, billed in both directions."""
    for fleet in case.fleets:
        price = case.quotes.between_zones(fleet.where) if fleet.offer is not None and fleet.peak > 1 else None
        if price is None:
            continue
        for workload in case.needs.workloads:
            if workload.name in fleet.workloads and (workload.slo.availability or 0.0) > SPARE_REQUIRED_ABOVE:
                whole = sum(sum(one.machines) for one in case.fleets if workload.name in one.workloads)
                share = sum(fleet.machines) / whole if whole else 0.0
                message = network.estimate_message_size(workload, case.catalog)
                crossing = share * ZONE_CROSSING_SHARE * 2 * (message.request + message.answer)
                usd = [count * crossing * price.usd for count in requests_by_month(case, workload)]
                line = f"{workload.name}: traffic between zones of {fleet.where.region}, {fleet.purchase} machines"
                yield make_varying_flow(line, "egress", usd, price.drivers)


def list_egress_flows(case: OptionContext, kept: StoredItems) -> tuple[list[EgressFlow], list[EgressFlow]]:
    """Return metered flows to the internet, and between regions of one provider."""
    moves = [*_list_copy_flows(case, kept), *_list_remote_reads(case), *_list_model_releases(case)]
    out = [*_list_response_flows(case), *(flow for flow, target in moves if target.provider != flow.source.provider)]
    between = [flow for flow, target in moves if target.provider == flow.source.provider]
    return [flow for flow in out if _is_metered(flow)], [flow for flow in between if _is_metered(flow)]


def _is_metered(flow: EgressFlow) -> bool:
    place = flow.source.placement
    return place not in OWN_PLACEMENTS and place != "hosted-api" and sum(flow.bytes) > 0


def _list_response_flows(case: OptionContext) -> Iterable[EgressFlow]:
    for workload in case.needs.workloads:
        message = network.estimate_message_size(workload, case.catalog)
        sent = [count * message.answer for count in requests_by_month(case, workload)]
        for place, share in case.load_shares(workload).items():
            yield EgressFlow(f"answers of {workload.name}", place, tuple(share * one for one in sent), message.facts)


def _list_copy_flows(case: OptionContext, kept: StoredItems) -> Iterable[tuple[EgressFlow, Location]]:
    """Yield copies of data sets: the whole set in the first month, then its growth."""
    profiles = {data.name: data for data in case.needs.data}
    for one in kept:
        data = profiles.get(one.kept.data)
        home = case.home_location(data) if data is not None else None
        if data is None or home is None or one.where == home:
            continue
        sent = [data.growth_gib_per_month * GIB] * case.months
        sent[0] += data.size_gib * GIB
        yield EgressFlow(one.kept.name, home, tuple(sent)), one.where


# The catalog part with the bytes of one unit of a job's size, by kind; () for GiB, tokens for other kinds.
BYTES_OF_JOB_SIZE: dict[str, tuple[str, ...]] = {"data-processing": (), "document-parsing": ("page.bytes",)}


def _list_remote_reads(case: OptionContext) -> Iterable[tuple[EgressFlow, Location]]:
    """Yield the reads of jobs that run at another place than their data."""
    for workload in case.needs.workloads:
        job = derive_batch_job(workload, case.months)
        sets = [data for data in case.needs.data if data.name in workload.data]
        home = case.home_location(sets[0]) if sets else None
        if job is None or home is None:
            continue
        facts = BYTES_OF_JOB_SIZE.get(workload.kind, ("text.bytes",))
        read = job.size * (case.catalog.parameter(facts[0]).value if facts else GIB)
        for place, share in case.load_shares(workload).items():
            if place != home:
                sent = tuple(share * read * job.runs_per_month * growth for growth in job.growth)
                yield EgressFlow(f"{workload.name} reads {sets[0].name}", home, sent, facts), place


def _list_model_releases(case: OptionContext) -> Iterable[tuple[EgressFlow, Location]]:
    """Yield the copies of a tuned model to every other place that serves it, after each run."""
    served = {workload.name: workload for workload in case.needs.workloads}
    for workload in case.needs.workloads:
        job, base = derive_batch_job(workload, case.months), served.get(workload.base or "")
        count = storage.count_trained_parameters(workload, case.models)
        if job is None or base is None or count is None:
            continue
        source = next(iter(case.load_shares(workload)), None)
        sent = (storage.WEIGHT_BYTES * count * job.runs_per_month,) * case.months
        for place in case.load_shares(base):
            if source is not None and place != source:
                yield EgressFlow(f"model of {workload.name}", source, sent), place
