"""Network section: ports of the gateways, the fabric of training clusters, switches, traffic that leaves, power."""

from collections.abc import Iterator

from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.needs import TEXT_KINDS
from archwright.contract.number_format import format_bit_rate, format_number
from archwright.plan.accounting.fleet import ChosenOption, MachineFleet
from archwright.plan.cost.data_placement import OptionContext, build_chosen_context
from archwright.plan.cost.facility_costs import (
    list_own_places,
    list_training_fabrics,
    select_central_fleets,
    size_network_gear,
)
from archwright.plan.cost.storage_and_egress import apply_part_bands, list_egress_flows, list_stored_items
from archwright.plan.demand.forecast import compute_monthly_growth
from archwright.plan.sections.guidance import fill_line, write_proof
from archwright.plan.sections.power import list_power_lines
from archwright.sizing.infrastructure import network, storage
from archwright.sizing.infrastructure.network import GIGABIT, MAX_WAIT_SHARE, STANDARD_PORT_BYTES_PER_S, Fabric

WAITING_FACTS = ("training.batch", "training.mfu", "collective.overlap")
# Port speeds on the market, in Gbit/s.
PORT_SPEEDS_GBIT = (1, 10, 25, 100, 400)
# Ports are filled to half: room for bursts, and for the failure of one port of a pair.
PORT_FILL_SHARE = 0.5
GB = 1e9
BOUNDARY_WORDS = r"network (policy|security)|segmentation|boundary|egress|transit|transmission|in motion"


def build_network_section(chosen: ChosenOption) -> Section:
    case = build_chosen_context(chosen)
    trained = list_training_fabrics(case)
    lines = [*_list_front_end(case), *(_build_fabric_line(case, fleet, fabric) for fleet, fabric in trained)]
    lines += [] if trained else [fill_line("network.no-fabric", {"most": MAX_WAIT_SHARE})]
    lines += [*_list_serving_links(case), *_list_egress(case)]
    clauses = storage.find_clauses(case.needs, case.catalog, BOUNDARY_WORDS)
    lines += [fill_line("network.boundary", {}, demanded_by=clauses), *list_power_lines(case, list_stored_items(case))]
    fast = dict.fromkeys(fabric.job.workload for _, fabric in trained if fabric.ports)
    if fast:
        summary = f"A 400G fabric between machines, for {', '.join(fast)}."
    elif trained:
        summary = "100G Ethernet is enough for every job on several machines."
    else:
        summary = "No job uses several machines, so no cluster fabric is needed."
    return Section(id="network", title="Network, power and cooling", summary=summary, lines=tuple(lines))


def _list_front_end(case: OptionContext) -> Iterator[SectionLine]:
    grown = [(one, compute_monthly_growth(one.traffic, case.months)[-1]) for one in case.needs.workloads]
    rate = sum(network.front_end_bandwidth((one,), case.catalog, growth) for one, growth in grown)
    if not rate or all(place.placement == "this-machine" for place in case.where):
        return
    stated = (one for one in case.needs.workloads if one.traffic)
    messages = (network.estimate_message_size(workload, case.catalog) for workload in stated)
    facts = tuple(dict.fromkeys(name for message in messages for name in message.facts))
    basis = case.ledger.create_basis(
        "network.front-end",
        "formula",
        "bytes of requests and responses in the busiest second of the horizon",
        formula="sum over the workloads of peak requests/s x (bytes of a request + bytes of its response) x growth",
        facts=case.quotes.drivers(facts),
    )
    traffic = apply_part_bands(case, facts, exact_estimate(rate, "bytes/s"), basis)
    yield fill_line(
        "network.front-end",
        {
            "port": _choose_port_speed(traffic.high),
            "rate": format_bit_rate(rate),
            "fastest": PORT_SPEEDS_GBIT[-1],
        },
        proof=write_proof("tokens_per_s", "rate"),
        estimate=traffic,
        source=case.quotes.sources(*facts),
    )


def _build_fabric_line(case: OptionContext, fleet: MachineFleet, fabric: Fabric) -> SectionLine:
    job, gear = fabric.job, size_network_gear(case, fleet.where)
    values = {
        "workload": job.workload,
        "machines": job.machines,
        "exchanged": job.exchanged_bytes / GB,
        "kind": "adapters" if job.trained < job.parameters else "weights and gradients",
        "most": MAX_WAIT_SHARE,
        "plain": fabric.waits_plain,
        "waits": fabric.waits,
        "still": "still " if fabric.waits > MAX_WAIT_SHARE else "",
        "ports": fabric.ports,
        "switches": f"; switches of 64 ports: {gear.fabric}, optical links: {gear.links}" if gear.fabric else "",
    }
    return fill_line(
        "network.fabric-400g" if fabric.ports else "network.fabric-100g",
        values,
        estimate=_estimate_wait_share(case, fabric),
        proof=write_proof("train_tokens_per_s", "mean"),
        source=case.quotes.sources(*WAITING_FACTS),
    )


def _estimate_wait_share(case: OptionContext, fabric: Fabric) -> Estimate:
    batch, mfu, overlap = (case.catalog.parameter(name) for name in WAITING_FACTS)
    flops = (4 * fabric.job.parameters + 2 * fabric.job.trained) / fabric.job.rate
    ends = ((flops * batch.high / mfu.low, overlap.high), (flops * batch.low / mfu.high, overlap.low))
    sent, port = fabric.job.exchanged_bytes, STANDARD_PORT_BYTES_PER_S
    least, most = (network.network_wait_share(sent, seconds, port, hidden) for seconds, hidden in ends)
    basis = case.ledger.create_basis(
        f"network.waiting.{fabric.job.workload}",
        "formula",
        "share of a training step spent waiting for the network at 100G",
        formula="w / (w + c); w = (1 - overlap) x bytes exchanged / bandwidth, c = FLOPs / (rate x utilisation)",
        facts=case.quotes.drivers(WAITING_FACTS),
    )
    return Estimate(value=fabric.waits_plain, low=least, high=most, unit="share", basis=basis)


def _list_serving_links(case: OptionContext) -> Iterator[SectionLine]:
    """Engines of texts, switches of own places, and the input of data processing."""
    texts = (workload for workload in case.needs.workloads if workload.kind in TEXT_KINDS)
    served = [(workload, case.models[workload.name]) for workload in texts if workload.name in case.models]
    if served:
        workload, model = max(served, key=lambda one: one[1].parameters)
        tensors, layers = network.cross_machine_bytes(model, 1.0, 2)
        values = {"model": model.id, "tensors": tensors / 1e6, "layers": layers / 1e3}
        yield fill_line("network.engines", values, proof=write_proof("tpot_s", "p95", workload=workload.name))
    for where in list_own_places(case):
        switches = size_network_gear(case, where).front
        if switches:
            machines = sum(fleet.peak for fleet in select_central_fleets(case, where))
            place = {"region": where.region, "switches": switches, "machines": machines}
            yield fill_line("network.switches", place)
    for workload in case.needs.workloads:
        rate = storage.required_read_bandwidth(workload)
        if rate:
            data = {"workload": workload.name, "port": _choose_port_speed(rate), "rate": format_bit_rate(rate)}
            data["monthly"] = network.monthly_ingest_bytes(workload) / GB
            yield fill_line("network.ingest", data)


def _format_gigabytes(number: float) -> str:
    return "less than 1 GB" if 0 < number < 1 else f"{format_number(number)} GB"


def _choose_port_speed(rate: float) -> int:
    return next((port for port in PORT_SPEEDS_GBIT if port * GIGABIT * PORT_FILL_SHARE >= rate), PORT_SPEEDS_GBIT[-1])


def _list_egress(case: OptionContext) -> Iterator[SectionLine]:
    out, between = list_egress_flows(case, list_stored_items(case))
    demanded = storage.find_clauses(case.needs, case.catalog, r"transfers only|region allow-list")
    for source in dict.fromkeys(flow.source for flow in (*out, *between)):
        internet, regions = (
            _format_gigabytes(sum(sum(flow.bytes) for flow in flows if flow.source == source) / case.months / GB)
            for flows in (out, between)
        )
        values = {"place": source.region or source.provider, "internet": internet, "regions": regions}
        yield fill_line("network.egress", values, demanded_by=demanded)
    if not out and not between:
        yield fill_line("network.no-egress", {}, demanded_by=demanded)
