"""Facility costs of on-premises machines: support, spare parts, renewal, space, network, electricity; control plane.

The price of rented machines includes all of this; their energy counts only for carbon.
"""

import math
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates, sum_estimates
from archwright.contract.needs import TRAINING_KINDS, Needs
from archwright.contract.number_format import format_number, format_share
from archwright.contract.plan import OWN_PLACEMENTS, PlatformServers
from archwright.plan.accounting.cash_flow import CashFlow, make_one_time_flow, make_recurring_flow, make_varying_flow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.cost import hardware_lifecycle as lifecycle
from archwright.plan.cost.cloud_services import compute_site_usd, is_cluster_place
from archwright.plan.cost.control_plane import SERVER_PART, ControlPlaneHosting, list_platform_parts
from archwright.plan.cost.data_placement import REFRESH_SUFFIX, OptionContext, list_online_workloads
from archwright.plan.cost.hardware_lifecycle import SERVER_LIFE, HardwarePurchase
from archwright.plan.cost.prices import UnitPrice
from archwright.plan.cost.storage_and_egress import StoredItems, sum_stored_terabytes
from archwright.plan.demand.forecast import HOURS_PER_MONTH
from archwright.sizing.hardware import power
from archwright.sizing.infrastructure import network
from archwright.sizing.infrastructure.network import Fabric
from archwright.sizing.infrastructure.storage import count_parameters, count_trained_parameters

SERVER_DRAW_PART = "platform.server-draw"
# Rack units of one server.
SERVER_RACK_UNITS, STORAGE_RACK_UNITS = 1, 2
STORAGE_SERVER_PART, STORAGE_SERVER_DRAW_PART = "storage.server", "storage.server-draw"
# From this many machines on, engines share weights on storage servers; fewer keep the files on their own disks. Three
# servers keep their data when one is lost.
LEAST_MACHINES_WITH_STORAGE, LEAST_STORAGE_SERVERS = 3, 3
# Front-end network: a pair of switches per this many machines; each machine is connected to both.
MACHINES_PER_SWITCH_PAIR = 30
# Assumed: this many bought machines use free ports of the building's switches; a pair of switches would cost more than
# a small machine.
BUILDING_NETWORK_MACHINES = 2
# Assumed: the measured power is between this share of the name-plate power and all of it.
MIN_NAME_PLATE_SHARE = 0.8


class SitePowerDraw(NamedTuple):
    """Peak power of an on-premises place, cooling included, its rack units, and its servers without engines."""

    where: Location
    power_kw: Estimate
    rack_units: float
    servers: tuple[PlatformServers, ...] = ()


def list_own_places(case: OptionContext) -> tuple[Location, ...]:
    return tuple(dict.fromkeys(place for place in case.where if place.placement in OWN_PLACEMENTS))


def select_fleets_at(case: OptionContext, where: Location) -> tuple[MachineFleet, ...]:
    return tuple(fleet for fleet in case.fleets if fleet.where == where)


def select_central_fleets(case: OptionContext, where: Location) -> tuple[MachineFleet, ...]:
    """Return the machines of a place, without those at the sites of workloads in the same country."""
    sited = {workload.name for workload in case.needs.workloads if workload.sites}
    return tuple(fleet for fleet in select_fleets_at(case, where) if not sited.issuperset(fleet.workloads))


def is_colocated(case: OptionContext, where: Location) -> bool:
    """True if the needs have no site in that country, so that machines are in rented space."""
    site, home = case.needs.placement.site, case.needs.organisation.country
    own = {country for group in case.needs.sites.values() for country in group.countries or (home,)}
    own |= {one.country for one in (site, *case.needs.placement.sites.values()) if one is not None}
    return where.placement == "on-premises" and where.country not in own


def price_machine_upkeep(case: OptionContext) -> Iterable[CashFlow]:
    """Yield support and repairs of on-premises machines by age; spare parts, renewal and resale of bought machines."""
    quotes = case.quotes
    for fleet in case.fleets:
        if fleet.where.placement not in OWN_PLACEMENTS or (node := fleet.node) is None:
            continue
        price, spares, life = quotes.node(node), quotes.part("spares"), lifecycle.select_life_part(node)
        name = f"{node.id} for {', '.join(fleet.workloads)} in {fleet.where.region}"
        terms: list[CashFlow] = []
        if fleet.purchase == "bought":
            bought = lifecycle.list_generations(
                lifecycle.read_ageing_curve(quotes.parameter, life, node), fleet.machines
            )
            aged = lifecycle.list_ages(bought, case.months)
            usd, drivers = price.usd * fleet.peak * spares.usd, (*price.drivers, *spares.drivers)
            terms.append(make_one_time_flow(f"spare parts of {name}", "support", usd, case.months, drivers))
            what = HardwarePurchase(name, "purchase", price, fleet.machines, life, node)
            terms += lifecycle.price_lifecycle(quotes, what, first_paid=False)
        else:
            aged = [[(count, fleet.age_months + month)] for month, count in enumerate(fleet.machines)]
        terms.append(lifecycle.price_support(quotes, name, price, aged))
        terms.append(lifecycle.price_repairs(quotes, name, node, aged))
        yield from (term._replace(machines_of=fleet.workloads) for term in terms)


def list_training_fabrics(case: OptionContext) -> tuple[tuple[MachineFleet, Fabric], ...]:
    """Return the network of every training job that spans machines, including rented machines."""
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
    """Network of a place: front-end switches (in pairs), cluster switches, links, additional network cards."""

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
    """Size the network for bought machines; owned machines have one, and two machines use the building's network."""
    central = select_central_fleets(case, where)
    here = [fleet for fleet in central if fleet.purchase == "bought" and fleet.node is not None]
    machines = sum(fleet.peak for fleet in here)
    front = 2 * math.ceil(machines / MACHINES_PER_SWITCH_PAIR) if machines > BUILDING_NETWORK_MACHINES else 0
    ports = cards = 0
    for fleet, fabric in list_training_fabrics(case):
        if fleet in here and fabric.ports and fleet.node is not None:
            has = math.floor(fleet.node.network_bytes_per_s / network.FAST_PORT_BYTES_PER_S)
            ports += fabric.ports * fabric.job.machines
            cards += max(0, fabric.ports - has) * fabric.job.machines
    cluster = network.plan_switches(ports)
    return NetworkGear(front, cluster.switches, cluster.links, cards)


# Links in the source of the optics price: 1,024 accelerators, two links each.
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
                terms += lifecycle.price_lifecycle(case.quotes, what)
    return terms


def estimate_site_power(case: OptionContext, kept: StoredItems) -> tuple[SitePowerDraw, ...]:
    """Return the peak power of each on-premises place, without remote sites (plants, branches)."""
    places = (where for where in list_own_places(case) if not case.is_remote_site(where))
    return tuple(_estimate_place_power(case, kept, where) for where in places)


def _estimate_place_power(case: OptionContext, kept: StoredItems, where: Location) -> SitePowerDraw:
    parts, here = list[Estimate](), select_central_fleets(case, where)
    # Successors of owned machines run after these leave, so the busiest month counts, not the sum of all.
    busiest = max(range(case.months), key=lambda month: sum(_compute_peak_kw(fleet, month) for fleet in here))
    for fleet in here:
        plate = _compute_peak_kw(fleet, busiest)
        parts.append(Estimate(value=plate, low=MIN_NAME_PLATE_SHARE * plate, high=plate, unit="kW"))
    racked = [(fleet.node.rack_units, fleet.monthly_peaks) for fleet in here if fleet.node is not None]
    units = max(sum(each * peaks[month] for each, peaks in racked) for month in range(case.months))
    gear, servers = size_network_gear(case, where), tuple(_list_servers(case, kept, where))
    terabytes, stores = max(sum_stored_terabytes(kept, where), default=0.0), count_storage_servers(case, kept, where)
    if terabytes:
        parts.append(case.catalog.parameter("storage.draw").scaled(terabytes / 1000, unit="kW"))
    if any(stores):
        parts.append(case.catalog.parameter(STORAGE_SERVER_DRAW_PART).scaled(max(stores), unit="kW"))
    else:
        units += math.ceil(case.catalog.parameter("storage.space").value * terabytes)
    if gear.switches:
        parts += estimate_switch_draw(case, gear)
        units += gear.switches
    if (seat := find_own_servers(case, where)) is not None:
        parts.append(estimate_server_draw(case, max(seat.counts)))
    units += sum(one.count * one.rack_units for one in servers)
    basis = case.ledger.create_basis(
        f"power.{where.placement}.{where.region}".lower(),
        "formula",
        "peak power, cooling included",
        formula="(name-plate power of machines + storage + switches) x PUE",
        facts=price_pue(case, where).drivers,
    )
    bare = sum_estimates(parts or [exact_estimate(0.0, "kW")], "kW")
    return SitePowerDraw(where, _apply_pue(case, where, bare, basis), units, servers)


def _compute_peak_kw(fleet: MachineFleet, month: int) -> float:
    return max(_get_name_plate_w(fleet), fleet.busy_w) * fleet.monthly_peaks[month] / 1000


def _get_name_plate_w(fleet: MachineFleet) -> float:
    return fleet.node.power_w if fleet.node is not None else 0.0


def _select_pue(case: OptionContext, where: Location) -> str | None:
    return power.select_pue_part(where.placement, colocated=is_colocated(case, where), catalog=case.catalog)


def _apply_pue(case: OptionContext, where: Location, bare: Estimate, basis: str) -> Estimate:
    overhead = _select_pue(case, where)
    parts = [bare] if overhead is None else [bare, case.catalog.parameter(overhead)]
    return multiply_estimates(parts, bare.unit, basis)


def price_pue(case: OptionContext, where: Location) -> UnitPrice:
    """Return the PUE: total power of the place / power of its machines."""
    overhead = _select_pue(case, where)
    return UnitPrice(1.0, ()) if overhead is None else case.quotes.part(overhead)


def estimate_machine_energy(case: OptionContext, fleet: MachineFleet) -> UnitPrice:
    """Return kWh per month of one machine of the fleet, without cooling."""
    watts = case.ledger.create_driver(
        power.estimate_power_draw(fleet.busy_w, _get_name_plate_w(fleet), case.catalog).mean(fleet.busy),
        f"draw.{fleet.machine.id}.{'+'.join(fleet.workloads)}.{fleet.busy_w * fleet.busy:.4g}",
        "formula",
        f"mean power of a machine: {fleet.machine.id}",
        formula=f"busy {format_share(fleet.busy)} of the time at {format_number(fleet.busy_w)} W, else idle",
        facts=case.quotes.part("idle.draw").drivers,
    )
    return UnitPrice(power.to_kwh(watts.value, HOURS_PER_MONTH), (watts.basis,))


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
    if any(stores := count_storage_servers(case, kept, where)):
        one = case.quotes.part(STORAGE_SERVER_DRAW_PART)
        flow = [count * one.usd * HOURS_PER_MONTH * kwh.usd for count in stores]
        line = f"electricity of storage servers in {where.region}"
        yield make_varying_flow(line, "energy", flow, (*kwh.drivers, *one.drivers))
    counts = (("front-end switches", gear.front), ("cluster switches", gear.fabric))
    for name, (what, count) in zip(SWITCH_DRAW_PARTS, counts, strict=True):
        if count:
            one = case.quotes.part(name)
            usd = count * one.usd * HOURS_PER_MONTH * kwh.usd
            line = f"electricity of {what} in {where.region}"
            yield make_recurring_flow(line, "energy", usd, case.months, (*kwh.drivers, *one.drivers))
    if (seat := find_own_servers(case, where)) is not None:
        one = case.quotes.part(SERVER_DRAW_PART)
        flow = [count * one.usd * HOURS_PER_MONTH * kwh.usd for count in seat.counts]
        line = f"electricity of control-plane servers in {where.region}"
        yield make_varying_flow(line, "energy", flow, (*kwh.drivers, *one.drivers, seat.machines))


def price_colocation(case: OptionContext, places: tuple[SitePowerDraw, ...]) -> list[CashFlow]:
    """Return the rent of colocation space, per kW of machine power; an own site has no rent."""
    terms = []
    for place in places:
        if is_colocated(case, place.where) and place.power_kw.value > 0:
            price, pue = case.quotes.part("colo.kw-month"), price_pue(case, place.where)
            usd = place.power_kw.value / pue.usd * price.usd
            line = f"colocation in {place.where.region}"
            terms.append(make_recurring_flow(line, "facility", usd, case.months, price.drivers))
    return terms


def energy_by_place(case: OptionContext, kept: StoredItems) -> dict[Location, Estimate]:
    """Return kWh per month, mean over the horizon, cooling included, for each place with machines or storage."""
    found: dict[Location, Estimate] = {}
    for where in dict.fromkeys([*(fleet.where for fleet in case.fleets), *list_own_places(case)]):
        parts = []
        for fleet in select_fleets_at(case, where):
            watts = case.ledger.driver_estimate(estimate_machine_energy(case, fleet).drivers[0])
            parts.append(watts.scaled(sum(fleet.machines) / case.months * HOURS_PER_MONTH / 1000, unit="kWh"))
        if where.placement in OWN_PLACEMENTS:
            terabytes = sum_stored_terabytes(kept, where)
            mean = sum(terabytes) / case.months
            parts.append(case.catalog.parameter("storage.draw").scaled(mean * HOURS_PER_MONTH / 1000, unit="kWh"))
            stores = sum(count_storage_servers(case, kept, where)) / case.months
            parts.append(case.catalog.parameter(STORAGE_SERVER_DRAW_PART).scaled(stores * HOURS_PER_MONTH, unit="kWh"))
            draws = estimate_switch_draw(case, size_network_gear(case, where))
            if (seat := find_own_servers(case, where)) is not None:
                draws.append(estimate_server_draw(case, sum(seat.counts) / case.months))
            parts += [draw.scaled(HOURS_PER_MONTH, unit="kWh") for draw in draws]
        found[where] = _apply_pue(case, where, sum_estimates(parts, "kWh"), "")
    return found


# Fixed parts of a further place. Machines, spares and copies of data have their own lines.
REGION_PARTS = ("region.network", "region.platform")


def compute_further_place_usd(needs: Needs, catalog: Catalog, provider: str = "") -> float:
    """Return the fixed cost in USD over the horizon of a further place, or of a further region of a provider."""
    if catalog.services_of(provider):
        return compute_site_usd(catalog, provider) * needs.budget.horizon_months
    return sum(catalog.parameter(name).value for name in REGION_PARTS) * needs.budget.horizon_months


def list_further_places(case: OptionContext) -> tuple[Location, ...]:
    """Return the cloud regions and central sites beside the main place; an own site is the main place."""
    regions = [fleet.where for fleet in case.fleets if fleet.where.placement == "cloud"]
    own = [place for place in list_own_places(case) if not case.is_remote_site(place)]
    places = tuple(dict.fromkeys([*own, *regions]))
    return places[1:] if own else tuple(place for place in places if place != case.main_location)


def price_further_places(case: OptionContext) -> Iterable[CashFlow]:
    for where in list_further_places(case):
        if is_cluster_place(case, where):  # its services and system nodes have lines of their own
            continue
        for name in REGION_PARTS:
            price = case.quotes.part(name)
            line = f"{case.catalog.parts[name].item}: {where.region}"
            yield make_recurring_flow(line, "platform", price.usd, case.months, price.drivers)


def price_control_plane(case: OptionContext) -> list[CashFlow]:
    """Return the cost lines; no lines if the control plane shares machines or exists already."""
    seat = case.seat
    if seat is None:
        bought = case.where and all(place.placement == "hosted-api" for place in case.where)
        if bought and list_online_workloads(case.needs) and list_platform_parts(case.needs):
            case.ledger.add_assumptions(
                "the gateway of a hosted model runs on an existing machine, because no machine may be rented"
            )
    if seat is None or seat.is_shared or is_cluster_place(case, seat.where):
        return []
    low, high = min(seat.counts), max(seat.counts)
    name = f"host of {', '.join(seat.parts)}: {low if low == high else f'{low} to {high}'} x "
    if seat.offer is None:
        price = case.quotes.part(SERVER_PART)
        unit = price._replace(drivers=(*price.drivers, seat.machines))
        line = f"{name}small server in {seat.where.region}"
        servers = HardwarePurchase(line, "platform", unit, seat.counts, SERVER_LIFE)
        return list(_price_servers(case, servers))
    price = case.quotes.offer(seat.offer)
    flow = [count * price.usd * HOURS_PER_MONTH for count in seat.counts]
    line = f"{name}{seat.offer.instance_type} in {seat.offer.region}"
    return [make_varying_flow(line, "platform", flow, (*price.drivers, seat.machines))]


def _price_servers(case: OptionContext, what: HardwarePurchase) -> Iterable[CashFlow]:
    """Yield support, and purchases or (if nothing may be bought) a monthly charge over the servers' life."""
    curve = lifecycle.read_ageing_curve(case.quotes.parameter, SERVER_LIFE)
    aged = lifecycle.list_ages(lifecycle.list_generations(curve, what.units), case.months)
    yield lifecycle.price_support(case.quotes, what.line, what.price, aged)
    if case.needs.budget.capex > 0:
        yield from lifecycle.price_lifecycle(case.quotes, what)
        return
    case.ledger.add_assumptions("budget.capex 0: servers of the control plane are charged monthly over their life")
    yield lifecycle.price_monthly_charge(case.quotes, what)


def price_storage_servers(case: OptionContext, kept: StoredItems) -> Iterable[CashFlow]:
    """Yield the cost of the storage servers of each central place; their drives are lines of the data."""
    for where in list_own_places(case):
        counts = count_storage_servers(case, kept, where)
        if any(counts):
            line = f"storage servers without drives, {max(counts)} in {where.region}"
            price = case.quotes.part(STORAGE_SERVER_PART)
            yield from _price_servers(case, HardwarePurchase(line, "storage", price, counts, SERVER_LIFE))


def count_storage_servers(case: OptionContext, kept: StoredItems, where: Location) -> tuple[int, ...]:
    """Return the storage servers of a place per month: for its bytes, and at least those that survive a loss."""
    fleets = select_central_fleets(case, where)
    machines = sum(one.peak for one in fleets if one.node is not None and one.node.form == "rack")
    none = (0,) * case.months
    if where.placement != "on-premises" or machines < LEAST_MACHINES_WITH_STORAGE:
        return none

    units_per_tb = case.catalog.parameter("storage.space").value
    terabytes = sum_stored_terabytes(kept, where) or none
    by_bytes = (math.ceil(units_per_tb * amount / STORAGE_RACK_UNITS) for amount in terabytes)
    # A server that is bought stays.
    return tuple(accumulate((max(LEAST_STORAGE_SERVERS, count) for count in by_bytes), max))


def _list_servers(case: OptionContext, kept: StoredItems, where: Location) -> Iterable[PlatformServers]:
    """Yield the servers of a place at the peak, with the highest draw of each, which a feed must carry."""
    seat = find_own_servers(case, where)
    stores = max(count_storage_servers(case, kept, where))
    if seat is not None:
        draw_w = case.catalog.parameter(SERVER_DRAW_PART).high * 1000
        yield PlatformServers(
            role="platform",
            region=where.region,
            count=max(seat.counts),
            rack_units=SERVER_RACK_UNITS,
            power_w=draw_w,
        )
    if stores:
        drives_w = case.catalog.parameter("storage.draw").high * max(sum_stored_terabytes(kept, where), default=0.0)
        bare_w = case.catalog.parameter(STORAGE_SERVER_DRAW_PART).high * 1000
        yield PlatformServers(
            role="storage",
            region=where.region,
            count=stores,
            rack_units=STORAGE_RACK_UNITS,
            power_w=bare_w + drives_w / stores,
        )


def find_own_servers(case: OptionContext, where: Location) -> ControlPlaneHosting | None:
    seat = case.seat
    own = seat is not None and seat.where == where and seat.offer is None and not seat.is_shared
    return seat if own and where.placement in OWN_PLACEMENTS else None


def estimate_server_draw(case: OptionContext, count: float) -> Estimate:
    return case.catalog.parameter(SERVER_DRAW_PART).scaled(count, unit="kW")
