"""Network: what the front end carries, what a cluster exchanges and which fabric that takes, what leaves."""

from __future__ import annotations

from collections.abc import Iterator

from archwright.contract.decision import Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Query
from archwright.contract.needs import TEXT_KINDS
from archwright.contract.record import replace
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
from archwright.plan.explain.formatting import format_number
from archwright.plan.sections.power import list_power_lines
from archwright.sizing.infrastructure import network, storage
from archwright.sizing.infrastructure.network import GIGABIT, MAX_WAIT_SHARE, STANDARD_PORT_BYTES_PER_S, Fabric

WINDOW_S = 3600.0
WAITING_FACTS = ("training.batch", "training.mfu", "collective.overlap")
# Port speeds one buys, in Gbit/s.
PORT_SPEEDS_GBIT = (1, 10, 25, 100, 400)
# A port is filled to half: bursts, and one of a pair that fails.
PORT_FILL_SHARE = 0.5
GB = 1e9


def build_network_section(chosen: ChosenOption) -> Section:
    case = build_chosen_context(chosen)
    builders = (_list_front_end, _list_fabrics, _list_engine_locality, _list_switches, _list_ingest, _list_egress)
    lines = [line for build in (*builders, _list_boundary) for line in build(case)]
    lines += list_power_lines(case, list_stored_items(case))
    spans = [fabric for _, fabric in list_training_fabrics(case)]
    fast = dict.fromkeys(fabric.job.workload for fabric in spans if fabric.ports)
    if fast:
        said = f"A 400G fabric between machines, for {', '.join(fast)}"
    elif spans:
        said = "100G Ethernet carries every job of several machines"
    else:
        said = "Nothing spans machines, so no cluster fabric is needed"
    return Section(id="network", title="Network, power and cooling", summary=f"{said}.", lines=tuple(lines))


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
        "bytes of requests and answers at the busiest second of the horizon",
        formula="sum over the workloads of peak requests/s x (bytes of a request + bytes of its answer) x growth",
        facts=case.quotes.drivers(facts),
    )
    both = apply_part_bands(case, facts, exact_estimate(rate, "bytes/s"), basis)
    yield SectionLine(
        topic="Front end",
        choice=f"two {_choose_port_speed(both.high)} Gbit/s ports for the gateways",
        why=f"{format_number(rate / GIGABIT)} Gbit/s at the busiest second; a port is filled to half, one may fail",
        proof=Query(metric="tokens_per_s", labels={}, statistic="rate", window_s=WINDOW_S).promql(),
        alternative=f"{PORT_SPEEDS_GBIT[-1]} Gbit/s everywhere",
        why_not="text and records are small: the front end is not what limits this plan",
        estimate=both,
        source=case.quotes.sources(*facts),
    )


# --- between machines


def _list_fabrics(case: OptionContext) -> Iterator[SectionLine]:
    found = list_training_fabrics(case)
    for fleet, fabric in found:
        yield _build_fabric_line(case, fleet, fabric)
    if not found:
        yield SectionLine(
            topic="Cluster fabric",
            choice="none: no training job spans machines",
            why=f"a 400G fabric pays when a job on several machines waits more than {MAX_WAIT_SHARE:.0%} of its "
            "time at 100G",
            proof="archwright runs list",
            alternative="400G Ethernet with RDMA, or InfiniBand",
            why_not="nothing of this plan would use it",
        )


def _build_fabric_line(case: OptionContext, fleet: MachineFleet, fabric: Fabric) -> SectionLine:
    job, kind = fabric.job, "adapters" if fabric.job.trained < fabric.job.parameters else "weights and gradients"
    reason = (
        f"{job.machines} machines exchange {job.exchanged_bytes / GB:,.1f} GB of {kind} each a step: "
        f"{fabric.waits_plain:.0%} of the time waiting at 100G"
    )
    line = SectionLine(
        topic=f"{job.workload}: fabric between {job.machines} machines",
        choice="100G Ethernet, the machines' own ports",
        why=f"{reason}, at most {MAX_WAIT_SHARE:.0%} is allowed",
        alternative="400G Ethernet with RDMA, or InfiniBand",
        why_not="it would shorten a run by less than it costs",
        estimate=_estimate_wait_share(case, fabric),
        proof=Query(metric="train_tokens_per_s", labels={}, statistic="mean", window_s=WINDOW_S).promql(),
        source=case.quotes.sources(*WAITING_FACTS),
    )
    if not fabric.ports:
        return line
    gear = size_network_gear(case, fleet.where)
    bought = f"; switches of 64 ports: {gear.fabric}, optical links: {gear.links}" if gear.fabric else ""
    slow = f", still {fabric.waits:.0%} waiting" if fabric.waits > MAX_WAIT_SHARE else f", then {fabric.waits:.0%}"
    return replace(
        line,
        choice=f"{fabric.ports} x 400G a machine, lossless: InfiniBand, or Ethernet with RDMA{bought}",
        why=f"{reason}, more than {MAX_WAIT_SHARE:.0%}{slow}",
        alternative="100G Ethernet",
        why_not=f"{fabric.waits_plain:.0%} of the machines' time, and of their price, would go into waiting",
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


def _list_engine_locality(case: OptionContext) -> Iterator[SectionLine]:
    texts = (workload for workload in case.needs.workloads if workload.kind in TEXT_KINDS)
    served = [(workload, case.models[workload.name]) for workload in texts if workload.name in case.models]
    if not served:
        return
    workload, model = max(served, key=lambda one: one[1].parameters)
    step, stages = network.cross_machine_bytes(model, 1.0, 2)
    yield SectionLine(
        topic="Engines",
        choice="each inside one machine; replicas beside it, no traffic between them",
        why=(
            f"split over two machines by tensors, {model.id} would send {step / 1e6:.1f} MB for every token of a step, "
            f"by layers {stages / 1e3:.0f} kB, and wait for the network at each"
        ),
        proof=Query(metric="tpot_s", labels={"workload": workload.name}, statistic="p95", window_s=WINDOW_S).promql(),
        alternative="one engine over several machines",
        why_not="only for a model that no machine holds",
    )


def _list_switches(case: OptionContext) -> Iterator[SectionLine]:
    for where in list_own_places(case):
        gear = size_network_gear(case, where)
        if gear.front:
            count = sum(fleet.peak for fleet in select_central_fleets(case, where))
            yield SectionLine(
                topic=f"Switches in {where.region}",
                choice=f"{gear.front} switches of 100G for {count} machines, each machine on two",
                why="one may fail or be replaced without taking a machine away",
                alternative="one switch",
                why_not="every machine would be down with it; not tested by this release",
            )


def _list_ingest(case: OptionContext) -> Iterator[SectionLine]:
    for workload in case.needs.workloads:
        rate = storage.required_read_bandwidth(workload)
        if rate:
            yield SectionLine(
                topic=f"{workload.name}: data in",
                choice=f"{_choose_port_speed(rate)} Gbit/s between its data and its machines",
                why=f"{network.monthly_ingest_bytes(workload) / GB:,.0f} GB a month, each day's within its deadline: "
                f"{rate / GIGABIT:.1f} Gbit/s while it runs",
                proof="archwright data list",
                alternative="machines where the data come up",
                why_not="only where their sites have the power and the people",
            )


def _choose_port_speed(rate: float) -> int:
    return next((port for port in PORT_SPEEDS_GBIT if port * GIGABIT * PORT_FILL_SHARE >= rate), PORT_SPEEDS_GBIT[-1])


# --- out of the house


def _list_egress(case: OptionContext) -> Iterator[SectionLine]:
    out, between = list_egress_flows(case, list_stored_items(case))
    demanded = storage.find_clauses(case.needs, case.catalog, r"transfers only|region allow-list")
    for source in dict.fromkeys(flow.source for flow in (*out, *between)):
        internet = sum(sum(flow.bytes) for flow in out if flow.source == source) / case.months
        regions = sum(sum(flow.bytes) for flow in between if flow.source == source) / case.months
        yield SectionLine(
            topic=f"Traffic out of {source.region or source.provider}",
            choice=f"{internet / GB:,.1f} GB a month to the internet, {regions / GB:,.1f} GB to other regions",
            why="answers, copies of data where they are answered from, and files of tuned models, billed by the byte; "
            "the provider's bill shows it, this release does not meter it",
            demanded_by=demanded,
            alternative="a private line to the provider",
            why_not="its port costs by the month however little it carries; ask for a price when this grows",
        )
    if not out and not between:
        yield SectionLine(
            topic="Traffic out",
            choice="nothing that is billed by the byte",
            why="answers leave by the line the house has, or are in the price of the tokens",
            demanded_by=demanded,
            proof="regions of the options in plan.json",
        )


def _list_boundary(case: OptionContext) -> Iterator[SectionLine]:
    words = r"network (policy|security)|segmentation|boundary|egress|transit|transmission|in motion"
    yield SectionLine(
        topic="Boundary",
        choice="one public door, the gateway, with TLS beyond this machine; engines on private addresses only; "
        "outbound denied but for a named list",
        why="an engine answers whoever reaches it; the list of outbound addresses is the firewall's to hold, "
        "this release does not set it",
        demanded_by=storage.find_clauses(case.needs, case.catalog, words),
        proof="control platform.tls",
        alternative="one flat network",
        why_not="who takes one machine would have all of them",
    )
