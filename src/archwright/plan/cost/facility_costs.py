"""What machines of one's own cost beside their purchase: support, spare parts, renewal, space, the network between
them, and the electricity of everything. Rented machines include all of it; their energy counts for carbon alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.cost_records import ServerSpec
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates, sum_estimates
from archwright.contract.needs import TRAINING_KINDS
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import CashFlow, make_one_time_flow, make_recurring_flow, make_varying_flow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.cost.control_plane_cost import (
    SERVER_RACK_UNITS,
    estimate_server_draw,
    get_own_servers,
    price_server_energy,
)
from archwright.plan.cost.data_placement import REFRESH_SUFFIX, OptionContext
from archwright.plan.cost.hardware_lifecycle import (
    GPU_LIFE,
    MONTHS_PER_YEAR,
    SERVER_LIFE,
    HardwarePurchase,
    price_lifecycle,
)
from archwright.plan.cost.prices import UnitPrice
from archwright.plan.cost.storage_and_egress import StoredItems, sum_stored_terabytes
from archwright.plan.demand.forecast import HOURS_PER_MONTH
from archwright.sizing.hardware import power
from archwright.sizing.infrastructure import network
from archwright.sizing.infrastructure.network import Fabric
from archwright.sizing.infrastructure.storage import count_parameters, count_trained_parameters

# The front end: two switches for so many machines, each on both.
MACHINES_PER_SWITCH_PAIR = 30
# A meter reads at most what the name plate says, and a fifth less as a rule. Assumed.
MIN_NAME_PLATE_SHARE = 0.8


class SitePowerDraw(NamedTuple):
    """What a place of one's own draws at the plug at most, cooling included, and the room it takes."""

    where: Location
    power_kw: Estimate
    rack_units: float


def list_own_places(case: OptionContext) -> tuple[Location, ...]:
    return tuple(dict.fromkeys(place for place in case.where if place.placement in OWN_PLACEMENTS))


def select_fleets_at(case: OptionContext, where: Location) -> tuple[MachineFleet, ...]:
    return tuple(fleet for fleet in case.fleets if fleet.where == where)


def select_central_fleets(case: OptionContext, where: Location) -> tuple[MachineFleet, ...]:
    """Machines of a place without those that stand at sites of their own in the same country."""
    sited = {workload.name for workload in case.needs.workloads if workload.sites}
    return tuple(fleet for fleet in select_fleets_at(case, where) if not sited.issuperset(fleet.workloads))


def is_colocated(case: OptionContext, where: Location) -> bool:
    """No site of the needs lies there: machines then stand in rented space."""
    site, home = case.needs.placement.site, case.needs.organisation.country
    own = {country for group in case.needs.sites.values() for country in group.countries or (home,)}
    return where.placement == "on-premises" and where.country not in (own | ({site.country} if site else set()))


# --- machines


def price_machine_upkeep(case: OptionContext) -> list[CashFlow]:
    """Support of all machines of one's own; spare parts and renewal of what is bought. Owned ones go at their end."""
    terms: list[CashFlow] = []
    for fleet in case.fleets:
        if fleet.where.placement in OWN_PLACEMENTS and fleet.node is not None:
            terms += (one._replace(machines_of=fleet.workloads) for one in _price_fleet_upkeep(case, fleet, fleet.node))
    return terms


def _price_fleet_upkeep(case: OptionContext, fleet: MachineFleet, node: ServerSpec) -> Iterable[CashFlow]:
    price, support, spares = case.quotes.node(node), case.quotes.part("support"), case.quotes.part("spares")
    whole, name = price.usd * fleet.peak, f"{node.id} for {', '.join(fleet.workloads)} in {fleet.where.region}"
    month = price.usd * support.usd / MONTHS_PER_YEAR
    paid = [month * count for count in fleet.machines]
    yield make_varying_flow(f"support of {name}", "support", paid, (*price.drivers, *support.drivers))
    if fleet.purchase != "bought":
        return
    drivers = (*price.drivers, *spares.drivers)
    yield make_one_time_flow(f"spare parts of {name}", "support", whole * spares.usd, case.months, drivers)
    life = GPU_LIFE if node.accelerator is not None else SERVER_LIFE
    bought = HardwarePurchase(name, "purchase", price, fleet.machines, life)
    yield from price_lifecycle(case.quotes, bought, first_paid=False)


# --- the network between them


def list_training_fabrics(case: OptionContext) -> tuple[tuple[MachineFleet, Fabric], ...]:
    """The network of every training job that spans machines, rented ones too."""
    found = []
    for workload in case.needs.workloads:
        whole, trained = count_parameters(workload, case.models), count_trained_parameters(workload, case.models)
        if workload.kind not in TRAINING_KINDS or whole is None or trained is None:
            continue
        for fleet in case.fleets:
            if workload.name in {name.removesuffix(REFRESH_SUFFIX) for name in fleet.workloads}:
                width = min(fleet.peak, fleet.widths.get(workload.name, fleet.peak))
                devices, device = fleet.machine.accelerator_count, fleet.machine.accelerator
                job = network.build_network_job(workload.name, (whole, trained), width, devices, device)
                if job is not None:
                    found.append((fleet, network.choose_fabric(job, case.catalog)))
    return tuple(found)


class NetworkGear(NamedTuple):
    """Switches a place needs: two and two for the front end, those of the cluster, their links, cards to add."""

    front: int
    fabric: int
    links: int
    cards: int

    @property
    def switches(self) -> int:
        return self.front + self.fabric


SWITCH_DRAW_PARTS = ("switch.front-draw", "switch.fabric-draw")


def estimate_switch_draw(case: OptionContext, gear: NetworkGear) -> list[Estimate]:
    counts = zip(SWITCH_DRAW_PARTS, (gear.front, gear.fabric), strict=True)
    return [case.catalog.parameter(name).scaled(count, unit="kW") for name, count in counts if count]


def size_network_gear(case: OptionContext, where: Location) -> NetworkGear:
    """For bought machines; owned ones have theirs, and a single machine uses the building's."""
    central = select_central_fleets(case, where)
    here = [fleet for fleet in central if fleet.purchase == "bought" and fleet.node is not None]
    machines = sum(fleet.peak for fleet in here)
    front = 2 * math.ceil(machines / MACHINES_PER_SWITCH_PAIR) if machines > 1 else 0
    ports = cards = 0
    for fleet, fabric in list_training_fabrics(case):
        if fleet in here and fabric.ports and fleet.node is not None:
            has = math.floor(fleet.node.network_bytes_per_s / network.FAST_PORT_BYTES_PER_S)
            ports += fabric.ports * fabric.job.machines
            cards += max(0, fabric.ports - has) * fabric.job.machines
    cluster = network.plan_switches(ports)
    return NetworkGear(front, cluster.switches, cluster.links, cards)


# What the source of the optics' price counts: 1,024 accelerators, two links for each.
OPTICS_LINKS = 2 * 1024


def price_network_gear(case: OptionContext) -> list[CashFlow]:
    terms: list[CashFlow] = []
    for where in list_own_places(case):
        gear = size_network_gear(case, where)
        optics = case.quotes.part("optics.fabric-1024")
        priced = (
            ("front-end switches", gear.front, case.quotes.part("switch.front")),
            ("cluster switches", gear.fabric, case.quotes.part("switch.fabric-400g-64")),
            ("cluster optics", gear.links, optics._replace(usd=optics.usd / OPTICS_LINKS)),
            ("cluster network cards", gear.cards, case.quotes.part("nic.400g")),
        )
        for name, count, price in priced:
            if count:
                line = f"{name}, {count} in {where.region}"
                what = HardwarePurchase(line, "network", price, (float(count),) * case.months, SERVER_LIFE)
                terms += price_lifecycle(case.quotes, what)
    return terms


# --- power, energy, space


def estimate_site_power(case: OptionContext, kept: StoredItems) -> tuple[SitePowerDraw, ...]:
    """Each place of one's own at its peak. What stands at remote sites (plants, branches) draws there, not here."""
    places = (where for where in list_own_places(case) if not case.is_remote_site(where))
    return tuple(_estimate_place_power(case, kept, where) for where in places)


def _estimate_place_power(case: OptionContext, kept: StoredItems, where: Location) -> SitePowerDraw:
    parts, here = list[Estimate](), select_central_fleets(case, where)
    # What follows owned machines stands there when these are gone: the busiest month, not the sum of all.
    busiest = max(range(case.months), key=lambda month: sum(_compute_peak_kw(fleet, month) for fleet in here))
    for fleet in here:
        plate = _compute_peak_kw(fleet, busiest)
        parts.append(Estimate(value=plate, low=MIN_NAME_PLATE_SHARE * plate, high=plate, unit="kW"))
    racked = [(fleet.node.rack_units, fleet.monthly_peaks) for fleet in here if fleet.node is not None]
    units = max(sum(each * peaks[month] for each, peaks in racked) for month in range(case.months))
    terabytes, gear = max(sum_stored_terabytes(kept, where), default=0.0), size_network_gear(case, where)
    if terabytes:
        parts.append(case.catalog.parameter("storage.draw").scaled(terabytes / 1000, unit="kW"))
        units += math.ceil(case.catalog.parameter("storage.space").value * terabytes)
    if gear.switches:
        parts += estimate_switch_draw(case, gear)
        units += gear.switches
    if (seat := get_own_servers(case)) is not None and seat.where == where:
        parts.append(estimate_server_draw(case, max(seat.counts)))
        units += SERVER_RACK_UNITS * max(seat.counts)
    basis = case.ledger.create_basis(
        f"power.{where.placement}.{where.region}".lower(),
        "formula",
        "peak draw at the plug, cooling included",
        formula="(machines at their name plates + storage + switches) x PUE",
        facts=price_pue(case, where).drivers,
    )
    bare = sum_estimates(parts or [exact_estimate(0.0, "kW")], "kW")
    return SitePowerDraw(where, _apply_pue(case, where, bare, basis), units)


def _compute_peak_kw(fleet: MachineFleet, month: int) -> float:
    return max(_get_name_plate_w(fleet), fleet.busy_w) * fleet.monthly_peaks[month] / 1000


def _get_name_plate_w(fleet: MachineFleet) -> float:
    return fleet.node.power_w if fleet.node is not None else 0.0


def _apply_pue(case: OptionContext, where: Location, bare: Estimate, basis: str) -> Estimate:
    overhead = power.select_pue_part(where.placement, colocated=is_colocated(case, where), catalog=case.catalog)
    parts = [bare] if overhead is None else [bare, case.catalog.parameter(overhead)]
    return multiply_estimates(parts, bare.unit, basis)


def price_pue(case: OptionContext, where: Location) -> UnitPrice:
    """What the building multiplies a machine's draw by."""
    overhead = power.select_pue_part(where.placement, colocated=is_colocated(case, where), catalog=case.catalog)
    return UnitPrice(1.0, ()) if overhead is None else case.quotes.part(overhead)


def estimate_machine_energy(case: OptionContext, fleet: MachineFleet) -> UnitPrice:
    """kWh of one of its machines in a month, without the building; a basis of its own."""
    watts = power.estimate_power_draw(fleet.busy_w, _get_name_plate_w(fleet), case.catalog).mean(fleet.busy)
    basis = case.ledger.create_basis(
        f"draw.{fleet.machine.id}.{'+'.join(fleet.workloads)}.{fleet.busy_w * fleet.busy:.4g}",
        "formula",
        f"mean draw of a machine: {fleet.machine.id}",
        formula=f"busy {fleet.busy:.0%} of the time at {fleet.busy_w:,.0f} W, else idle",
        facts=case.quotes.part("idle.draw").drivers,
    )
    case.ledger.register_driver(replace(watts, basis=basis))
    return UnitPrice(power.to_kwh(watts.value, HOURS_PER_MONTH), (basis,))


def price_energy(case: OptionContext, kept: StoredItems) -> list[CashFlow]:
    terms: list[CashFlow] = []
    for where in list_own_places(case):
        price, pue = case.quotes.electricity(where.country), price_pue(case, where)
        usd, drivers = price.usd * pue.usd, (*price.drivers, *pue.drivers)
        for fleet in select_fleets_at(case, where):
            one = estimate_machine_energy(case, fleet)
            flow = [count * one.usd * usd for count in fleet.machines]
            line = f"electricity of {fleet.machine.id} for {', '.join(fleet.workloads)} in {where.region}"
            paid = make_varying_flow(line, "energy", flow, (*drivers, *one.drivers))
            terms.append(paid._replace(machines_of=fleet.workloads))
        terms += _price_shared_energy(case, kept, where, UnitPrice(usd, drivers))
    return [term for term in terms if term.sum > 0]


def _price_shared_energy(case: OptionContext, kept: StoredItems, where: Location, kwh: UnitPrice) -> Iterable[CashFlow]:
    terabytes, gear = sum_stored_terabytes(kept, where), size_network_gear(case, where)
    if terabytes:
        one = case.quotes.part("storage.draw")
        flow = [power.to_kwh(amount * one.usd, HOURS_PER_MONTH) * kwh.usd for amount in terabytes]
        line = f"electricity of storage in {where.region}"
        yield make_varying_flow(line, "energy", flow, (*kwh.drivers, *one.drivers))
    counts = (("front-end switches", gear.front), ("cluster switches", gear.fabric))
    for name, (what, count) in zip(SWITCH_DRAW_PARTS, counts, strict=True):
        if count:
            one = case.quotes.part(name)
            usd = count * one.usd * HOURS_PER_MONTH * kwh.usd
            line = f"electricity of {what} in {where.region}"
            yield make_recurring_flow(line, "energy", usd, case.months, (*kwh.drivers, *one.drivers))
    if (seat := get_own_servers(case)) is not None and seat.where == where:
        yield price_server_energy(case, seat, kwh)


def price_colocation(case: OptionContext, places: tuple[SitePowerDraw, ...]) -> list[CashFlow]:
    """Rented space is paid by the kW that is provisioned for the machines; a site of one's own is there already."""
    terms = []
    for place in places:
        if is_colocated(case, place.where) and place.power_kw.value > 0:
            price, pue = case.quotes.part("colo.kw-month"), price_pue(case, place.where)
            usd = place.power_kw.value / pue.usd * price.usd
            line = f"colocation in {place.where.region}"
            terms.append(make_recurring_flow(line, "facility", usd, case.months, price.drivers))
    return terms


def energy_by_place(case: OptionContext, kept: StoredItems) -> dict[Location, Estimate]:
    """kWh of a month at the plug, mean over the horizon, for every place with machines or storage of its own."""
    found: dict[Location, Estimate] = {}
    for where in dict.fromkeys([*(fleet.where for fleet in case.fleets), *list_own_places(case)]):
        parts = []
        for fleet in select_fleets_at(case, where):
            watts = case.ledger.driver_estimate(estimate_machine_energy(case, fleet).drivers[0])
            hours = sum(fleet.machines) / case.months * HOURS_PER_MONTH
            parts.append(watts.scaled(hours / 1000, unit="kWh"))
        if where.placement in OWN_PLACEMENTS:
            terabytes = sum_stored_terabytes(kept, where)
            mean = sum(terabytes) / case.months
            parts.append(case.catalog.parameter("storage.draw").scaled(mean * HOURS_PER_MONTH / 1000, unit="kWh"))
            draws = estimate_switch_draw(case, size_network_gear(case, where))
            if (seat := get_own_servers(case)) is not None and seat.where == where:
                draws.append(estimate_server_draw(case, sum(seat.counts) / case.months))
            parts += [draw.scaled(HOURS_PER_MONTH, unit="kWh") for draw in draws]
        found[where] = _apply_pue(case, where, sum_estimates(parts, "kWh"), "")
    return found
