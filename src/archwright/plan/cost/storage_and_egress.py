"""What an option pays for bytes: keeping them, sending them out, copying them between regions.

Every option keeps all data of the needs, at its own price: also data that are there already, since their place costs
every option alike. Storage of one's own is bought year by year.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract.estimate import Estimate, exact, product, total
from archwright.contract.needs import TRAINING_KINDS, Workload
from archwright.contract.plan import OWN
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import Term, following
from archwright.plan.accounting.fleet import Fleet, Where
from archwright.plan.capacity.availability import SPARE_ABOVE
from archwright.plan.cost.data_placement import Case
from archwright.plan.cost.hardware_lifecycle import MONTHS_PER_YEAR, SERVER_LIFE, Bought, renewed
from archwright.plan.cost.prices import TB
from archwright.plan.demand.forecast import Job, demand_of, job_of
from archwright.sizing.infrastructure import network, storage
from archwright.sizing.infrastructure.storage import GIB, Kept, Tier
from archwright.sizing.infrastructure.vector_index import MEMORY_SHARE, Form, Index, index_of

MEDIA: dict[Tier, str] = {
    "object": "storage.disk",
    "archive": "storage.disk",
    "block": "storage.flash",
    "file": "storage.flash",
}
THIS_MACHINE = "this-machine"
# Of requests between two zones that share the load evenly.
CROSSING = 0.5


class Lying(NamedTuple):
    """A kept thing at a place."""

    kept: Kept
    where: Where


class Flow(NamedTuple):
    """Bytes that leave a place each month, and the parts of the catalog they rest on."""

    name: str
    source: Where
    bytes: tuple[float, ...]
    facts: tuple[str, ...] = ()


def lying(case: Case) -> tuple[Lying, ...]:
    """Everything an option keeps, where it keeps it. On this machine the disk is there already."""
    found = [*_data(case), *_models(case), *_indexes(case), *_records(case)]
    return tuple(one for one in found if one.where.placement != THIS_MACHINE and one.kept.most > 0)


def _data(case: Case) -> Iterable[Lying]:
    profiles = {data.name: data for data in case.needs.data}
    for kept in storage.data_sets(case.needs, case.catalog):
        data = profiles[kept.data]
        home = case.home(data) if kept.tier != "archive" else case.vault(data)
        if home is not None:
            yield Lying(kept, home)
        if kept.tier != "archive":
            for place in case.copies(data):
                why = "a copy where it is answered from"
                yield Lying(kept._replace(name=f"{kept.name}, copy", why=why), place)


def _models(case: Case) -> Iterable[Lying]:
    """Checkpoints lie where training runs, model files wherever the model runs; a registry that is there keeps them,
    and who sells answers or workers by the second keeps those that it serves.
    """
    if not any(line.kind == "registry" for line in case.needs.existing):
        files = storage.model_files(case.needs, case.models, case.catalog)
        yield from _where_run(case, (kept for kept in files if not _provided(case, kept.workload)))
    yield from _where_run(case, storage.checkpoints(case.needs, case.models, case.catalog))


def _provided(case: Case, workload: str) -> bool:
    """Whether the provider holds the weights that a workload runs: of an open model that it sells answers of, or that
    its workers load; what training made is ours to keep.
    """
    mine = [fleet for fleet in case.fleets if workload in fleet.workloads]
    tuned = any(one.kind in TRAINING_KINDS and workload in (one.name, one.base) for one in case.needs.workloads)
    if not mine:
        return any(place.placement == "hosted-api" for place in case.where)
    return not tuned and all(fleet.where.placement == "serverless" for fleet in mine)


def _where_run(case: Case, things: Iterable[Kept]) -> Iterable[Lying]:
    workloads = {workload.name: workload for workload in case.needs.workloads}
    for kept in things:
        for place in case.places_of(workloads[kept.workload]):
            yield Lying(kept, place)


def _indexes(case: Case) -> Iterable[Lying]:
    for workload in case.needs.workloads:
        months = indexes(case, workload)
        for place in case.places_of(workload) if months else ():
            form = form_at(case, workload, place)
            stored = tuple(index.laid(form).stored_bytes for index in months)
            why = f"{months[-1].vectors.value:,.0f} vectors in the last month, searched in {form} form"
            yield Lying(Kept(f"vector index of {workload.name}", "block", stored, months[-1].facts, why=why), place)


def indexes(case: Case, workload: Workload) -> list[Index]:
    """A retrieval's index in each month; none where nothing is looked up."""
    found = (index_of(case.needs, workload, case.catalog, month + 0.5) for month in range(case.months))
    return [index for index in found if index is not None]


def form_at(case: Case, workload: Workload, place: Where) -> Form:
    """The fastest form that the memory at a place holds in every month."""
    largest = max(indexes(case, workload), key=lambda index: index.vectors.value)
    return largest.within(room(case, workload, place)).form


def room(case: Case, workload: Workload, place: Where) -> float:
    """Host memory an index may take on the machines that answer at a place."""
    if case.host is not None and place == case.main:
        return MEMORY_SHARE * case.host.ram_bytes
    return MEMORY_SHARE * sum(
        min(fleet.machines) * fleet.machine.ram_bytes
        for fleet in case.fleets
        if fleet.where == place and workload.name in fleet.workloads
    )


def _records(case: Case) -> Iterable[Lying]:
    """Logs and metrics lie at the main place; a monitoring system that is there keeps both."""
    if case.main is None or any(line.kind == "monitoring" for line in case.needs.existing):
        return
    requests = [0.0] * case.months
    for workload in case.needs.workloads:
        requests = [total + new for total, new in zip(requests, requests_by_month(case, workload), strict=True)]
    yield Lying(storage.logs(case.needs, tuple(requests), case.catalog), case.main)
    machines = [sum(fleet.machines[month] for fleet in case.fleets) for month in range(case.months)]
    days, _ = storage.log_days(case.needs, case.catalog)
    yield Lying(storage.metrics(tuple(machines), days, case.catalog), case.main)


def requests_by_month(case: Case, workload: Workload) -> tuple[float, ...]:
    demand = demand_of(workload, case.months)
    if demand is None:
        return (0.0,) * case.months
    return tuple(demand.requests_per_month * growth for growth in demand.growth)


class Heap(NamedTuple):
    """Bytes that are paid for in one line: USD go by their sum, and by each of `drivers`."""

    name: str
    where: Where
    tier: Tier
    bytes: tuple[float, ...]
    drivers: tuple[str, ...]


def storage_terms(case: Case, kept: tuple[Lying, ...]) -> list[Term]:
    terms: list[Term] = []
    for heap in _heaps(case, kept):
        if heap.where.placement in OWN:
            terms += _own_storage(case, heap)
            continue
        price = case.quotes.storage(heap.where, heap.tier)
        flow = [amount * price.usd for amount in heap.bytes]
        line = f"{heap.name}: {heap.tier} storage{_at(heap.where)}"
        terms.append(following(line, "storage", flow, (*price.drivers, *heap.drivers)))
    return terms


def _heaps(case: Case, kept: tuple[Lying, ...]) -> Iterable[Heap]:
    """Each data set and backup alone; the platform's own files, which are small, together by place and price."""
    own: dict[tuple[Where, str], list[Lying]] = {}
    for one in kept:
        if one.kept.data:
            drivers = case.quotes.drivers(one.kept.facts)
            yield Heap(one.kept.name, one.where, one.kept.tier, one.kept.bytes, drivers)
        else:
            paid = MEDIA[one.kept.tier] if one.where.placement in OWN else one.kept.tier
            own.setdefault((one.where, paid), []).append(one)
    for (where, _), files in own.items():
        names = ", ".join(dict.fromkeys(one.kept.name.split(" of ")[0] for one in files))
        size = tuple(sum(month) for month in zip(*(one.kept.bytes for one in files), strict=True))
        yield Heap(names, where, files[0].kept.tier, size, (_mean_bytes(case, names, files),))


def _mean_bytes(case: Case, names: str, files: list[Lying]) -> str:
    """The basis of the sum of several kinds of files, each with the band of what it rests on."""
    parts = [banded(case, one.kept.facts, exact(sum(one.kept.bytes) / case.months, "bytes")) for one in files]
    facts = [driver for one in files for driver in case.quotes.drivers(one.kept.facts)]
    whole = total(parts, "bytes")
    basis = case.ledger.basis(
        f"bytes.{files[0].where.region}.{names}.{whole.value:.4g}".lower().replace(", ", "+").replace(" ", "-"),
        "formula",
        f"bytes kept, mean over the horizon: {names}",
        formula="; ".join(f"{one.kept.name}: {one.kept.why}" for one in files),
        facts=tuple(dict.fromkeys(facts)),
    )
    return case.ledger.drive(replace(whole, basis=basis))


def banded(case: Case, facts: Iterable[str], size: Estimate, basis: str = "") -> Estimate:
    """`size` with the bands of the parts of the catalog that it is proportional to."""
    parts = [case.catalog.part(name) for name in facts]
    relative = [part.scaled(1 / part.value, unit="") for part in parts]
    return product([*relative, size], size.unit, basis)


def _own_storage(case: Case, heap: Heap) -> list[Term]:
    """Bought; where nothing may be bought, the house charges for it month by month over its life."""
    price = case.quotes.part(MEDIA[heap.tier])
    unit = price._replace(drivers=(*price.drivers, *heap.drivers))
    terabytes = tuple(amount / TB for amount in heap.bytes)
    medium = "disks" if MEDIA[heap.tier] == "storage.disk" else "flash"
    if case.needs.budget.capex > 0:
        line = f"{heap.name}: {medium} bought{_at(heap.where)}"
        return renewed(case.quotes, Bought(line, "storage", unit, terabytes, SERVER_LIFE))
    month = unit.usd / (MONTHS_PER_YEAR * case.quotes.years(SERVER_LIFE))
    case.ledger.assume("budget.capex 0: storage of the house is charged by the month, its price spread over its life")
    line = f"{heap.name}: {medium} of the house{_at(heap.where)}"
    return [following(line, "storage", [month * amount for amount in terabytes], unit.drivers)]


def _at(where: Where) -> str:
    return f" in {where.region}" if where.region else ""


def own_terabytes(kept: tuple[Lying, ...], where: Where) -> tuple[float, ...]:
    """TB held at a place, month by month."""
    here = [one.kept.bytes for one in kept if one.where == where]
    return tuple(sum(month) / TB for month in zip(*here, strict=True))


# --- what leaves


def egress_terms(case: Case, kept: tuple[Lying, ...]) -> list[Term]:
    """Answers and exports by each provider's steps, then copies between regions of one provider."""
    out, between = egress_flows(case, kept)
    terms: list[Term] = []
    for source in dict.fromkeys(flow.source for flow in out):
        flows = [flow for flow in out if flow.source == source]
        prices = case.quotes.egress(source)
        whole = [sum(month) for month in zip(*(flow.bytes for flow in flows), strict=True)]
        rate = [prices.usd(amount) / amount if amount else 0.0 for amount in whole]
        for flow in flows:
            usd = [amount * one for amount, one in zip(flow.bytes, rate, strict=True)]
            line = f"{flow.name}: traffic out of {source.region or source.provider}"
            terms.append(following(line, "egress", usd, (*prices.drivers, *case.quotes.drivers(flow.facts))))
    for flow in between:
        price = case.quotes.between_regions(flow.source)
        usd = [amount * price.usd for amount in flow.bytes]
        line = f"{flow.name}: traffic between regions"
        terms.append(following(line, "egress", usd, (*price.drivers, *case.quotes.drivers(flow.facts))))
    terms += _zone_terms(case)
    return [term for term in terms if term.sum > 0]


def _zone_terms(case: Case) -> Iterable[Term]:
    """Spares stand in other zones than the gateway: half of what is said crosses, billed in both directions."""
    for fleet in case.fleets:
        price = case.quotes.between_zones(fleet.where) if fleet.offer is not None and fleet.peak > 1 else None
        if price is None:
            continue
        for workload in case.needs.workloads:
            if workload.name in fleet.workloads and (workload.slo.availability or 0.0) > SPARE_ABOVE:
                share = _share_of(case, fleet, workload)
                message = network.message_of(workload, case.catalog)
                crossing = share * CROSSING * 2 * (message.request + message.answer)
                usd = [count * crossing * price.usd for count in requests_by_month(case, workload)]
                line = f"{workload.name}: traffic between zones of {fleet.where.region}, {fleet.purchase} machines"
                yield following(line, "egress", usd, price.drivers)


def _share_of(case: Case, fleet: Fleet, workload: Workload) -> float:
    """A fleet's part of a workload's machines."""
    every = [one for one in case.fleets if workload.name in one.workloads]
    whole = sum(sum(one.machines) for one in every)
    return sum(fleet.machines) / whole if whole else 0.0


def egress_flows(case: Case, kept: tuple[Lying, ...]) -> tuple[list[Flow], list[Flow]]:
    """Flows to the internet and flows between regions of one provider. What leaves a house, and what a hosted model
    answers, is paid for otherwise.
    """
    moves = [*_copied(case, kept), *_read_afar(case), *_released(case)]
    out = [*_answers(case), *(flow for flow, target in moves if target.provider != flow.source.provider)]
    between = [flow for flow, target in moves if target.provider == flow.source.provider]
    return [flow for flow in out if _metered(flow)], [flow for flow in between if _metered(flow)]


def _metered(flow: Flow) -> bool:
    place = flow.source.placement
    return place not in OWN and place != "hosted-api" and sum(flow.bytes) > 0


def _answers(case: Case) -> Iterable[Flow]:
    for workload in case.needs.workloads:
        message = network.message_of(workload, case.catalog)
        sent = [count * message.answer for count in requests_by_month(case, workload)]
        for place, share in case.places_of(workload).items():
            yield Flow(f"answers of {workload.name}", place, tuple(share * one for one in sent), message.facts)


def _copied(case: Case, kept: tuple[Lying, ...]) -> Iterable[tuple[Flow, Where]]:
    """A copy is filled in the first month, then follows what comes in."""
    profiles = {data.name: data for data in case.needs.data}
    for one in kept:
        data = profiles.get(one.kept.data)
        home = case.home(data) if data is not None else None
        if data is None or home is None or one.where == home:
            continue
        sent = [data.growth_gib_per_month * GIB] * case.months
        sent[0] += data.size_gib * GIB
        yield Flow(one.kept.name, home, tuple(sent)), one.where


def _read_afar(case: Case) -> Iterable[tuple[Flow, Where]]:
    """Work with an end that runs where its data do not lie reads them over the network."""
    for workload in case.needs.workloads:
        job = job_of(workload, case.months)
        sets = [data for data in case.needs.data if data.name in workload.data]
        home = case.home(sets[0]) if sets else None
        if job is None or home is None:
            continue
        read, facts = _run_bytes(case, job)
        for place, share in case.places_of(workload).items():
            if place != home:
                sent = tuple(share * read * job.runs_per_month * growth for growth in job.growth)
                yield Flow(f"{workload.name} reads {sets[0].name}", home, sent, facts), place


def _run_bytes(case: Case, job: Job) -> tuple[float, tuple[str, ...]]:
    """What one run reads, and what that rests on."""
    if job.workload.kind == "data-processing":
        return job.size * GIB, ()
    return job.size * case.catalog.part("text.bytes").value, ("text.bytes",)


def _released(case: Case) -> Iterable[tuple[Flow, Where]]:
    """A tuned model's file goes to every other place that serves it, after each run."""
    served = {workload.name: workload for workload in case.needs.workloads}
    for workload in case.needs.workloads:
        job, base = job_of(workload, case.months), served.get(workload.base or "")
        count = storage.trained(workload, case.models)
        if job is None or base is None or count is None:
            continue
        source = next(iter(case.places_of(workload)), None)
        sent = (storage.WEIGHT_BYTES * count * job.runs_per_month,) * case.months
        for place in case.places_of(base):
            if source is not None and place != source:
                yield Flow(f"model of {workload.name}", source, sent), place
