"""What machines of one's own cost beside their purchase: support, spare parts, renewal, space, the network between
them, and the electricity of everything. Rented machines include all of it; their energy counts for carbon alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.cost_records import Node
from archwright.contract.estimate import Estimate, exact, product, total
from archwright.contract.needs import TRAINING_KINDS
from archwright.contract.plan import OWN
from archwright.contract.record import replace
from archwright.plan.accounting.cash_flow import Term, bought, following, recurring
from archwright.plan.accounting.fleet import Fleet, Where
from archwright.plan.cost.control_plane_cost import UNITS, drawn, host_energy, own_servers
from archwright.plan.cost.data_placement import REFRESH, Case
from archwright.plan.cost.hardware_lifecycle import GPU_LIFE, MONTHS_PER_YEAR, SERVER_LIFE, Bought, renewed
from archwright.plan.cost.prices import Price
from archwright.plan.cost.storage_and_egress import Lying, own_terabytes
from archwright.plan.demand.forecast import HOURS_PER_MONTH
from archwright.sizing.hardware import power
from archwright.sizing.infrastructure import network, storage
from archwright.sizing.infrastructure.network import Fabric

# The front end: two switches for so many machines, each on both.
FRONT_PORTS = 30
# A meter reads at most what the name plate says, and a fifth less as a rule. Assumed.
NAME_PLATE = 0.8


class Plug(NamedTuple):
    """What a place of one's own draws at the plug at most, cooling included, and the room it takes."""

    where: Where
    power_kw: Estimate
    rack_units: float


def own_places(case: Case) -> tuple[Where, ...]:
    return tuple(dict.fromkeys(place for place in case.where if place.placement in OWN))


def fleets_at(case: Case, where: Where) -> tuple[Fleet, ...]:
    return tuple(fleet for fleet in case.fleets if fleet.where == where)


def central(case: Case, where: Where) -> tuple[Fleet, ...]:
    """Machines of a place without those that stand at sites of their own in the same country."""
    sited = {workload.name for workload in case.needs.workloads if workload.sites}
    return tuple(fleet for fleet in fleets_at(case, where) if not sited.issuperset(fleet.workloads))


def colocated(case: Case, where: Where) -> bool:
    """No site of the needs lies there: machines then stand in rented space."""
    site, home = case.needs.placement.site, case.needs.organisation.country
    own = {country for group in case.needs.sites.values() for country in group.countries or (home,)}
    return where.placement == "on-premises" and where.country not in (own | ({site.country} if site else set()))


# --- machines


def machine_terms(case: Case) -> list[Term]:
    """Support of all machines of one's own; spare parts and renewal of what is bought. Owned ones go at their end."""
    terms: list[Term] = []
    for fleet in case.fleets:
        if fleet.where.placement in OWN and fleet.node is not None:
            terms += (one._replace(machines_of=fleet.workloads) for one in _of_machines(case, fleet, fleet.node))
    return terms


def _of_machines(case: Case, fleet: Fleet, node: Node) -> Iterable[Term]:
    price, support, spares = case.quotes.node(node), case.quotes.part("support"), case.quotes.part("spares")
    whole, name = price.usd * fleet.peak, f"{node.id} for {', '.join(fleet.workloads)} in {fleet.where.region}"
    month = price.usd * support.usd / MONTHS_PER_YEAR
    paid = [month * count for count in fleet.machines]
    yield following(f"support of {name}", "support", paid, (*price.drivers, *support.drivers))
    if fleet.purchase != "bought":
        return
    drivers = (*price.drivers, *spares.drivers)
    yield bought(f"spare parts of {name}", "support", whole * spares.usd, case.months, drivers)
    life = GPU_LIFE if node.accelerator is not None else SERVER_LIFE
    yield from renewed(case.quotes, Bought(name, "purchase", price, fleet.machines, life), first_paid=False)


# --- the network between them


def fabrics(case: Case) -> tuple[tuple[Fleet, Fabric], ...]:
    """The network of every training job that spans machines, rented ones too."""
    found = []
    for workload in case.needs.workloads:
        counts = (storage.parameters_of(workload, case.models), storage.trained(workload, case.models))
        if workload.kind not in TRAINING_KINDS or counts[0] is None or counts[1] is None:
            continue
        for fleet in case.fleets:
            if workload.name in {name.removesuffix(REFRESH) for name in fleet.workloads}:
                width = min(fleet.peak, fleet.widths.get(workload.name, fleet.peak))
                devices, device = fleet.machine.accelerator_count, fleet.machine.accelerator
                job = network.job_of(workload.name, (counts[0], counts[1]), width, devices, device)
                if job is not None:
                    found.append((fleet, network.fabric_of(job, case.catalog)))
    return tuple(found)


class Gear(NamedTuple):
    """Switches a place needs: two and two for the front end, those of the cluster, their links, cards to add."""

    front: int
    fabric: int
    links: int
    cards: int

    @property
    def switches(self) -> int:
        return self.front + self.fabric


DRAWS = ("switch.front-draw", "switch.fabric-draw")


def gear_draw(case: Case, gear: Gear) -> list[Estimate]:
    """kW of the switches of each kind there are."""
    counts = zip(DRAWS, (gear.front, gear.fabric), strict=True)
    return [case.catalog.part(name).scaled(count, unit="kW") for name, count in counts if count]


def gear_at(case: Case, where: Where) -> Gear:
    """For bought machines; owned ones have theirs, and a single machine uses the building's."""
    here = [fleet for fleet in central(case, where) if fleet.purchase == "bought" and fleet.node is not None]
    machines = sum(fleet.peak for fleet in here)
    front = 2 * math.ceil(machines / FRONT_PORTS) if machines > 1 else 0
    ports = cards = 0
    for fleet, fabric in fabrics(case):
        if fleet in here and fabric.ports and fleet.node is not None:
            has = math.floor(fleet.node.network_bytes_per_s / network.FAST)
            ports += fabric.ports * fabric.job.machines
            cards += max(0, fabric.ports - has) * fabric.job.machines
    cluster = network.switches_for(ports)
    return Gear(front, cluster.switches, cluster.links, cards)


# What the source of the optics' price counts: 1,024 accelerators, two links for each.
OPTICS_LINKS = 2 * 1024


def network_terms(case: Case) -> list[Term]:
    """Bought once, renewed with the servers."""
    terms: list[Term] = []
    for where in own_places(case):
        gear = gear_at(case, where)
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
                what = Bought(line, "network", price, (float(count),) * case.months, SERVER_LIFE)
                terms += renewed(case.quotes, what)
    return terms


# --- power, energy, space


def plugs(case: Case, kept: tuple[Lying, ...]) -> tuple[Plug, ...]:
    """Each place of one's own at its peak. What stands at remote sites (plants, branches) draws there, not here."""
    return tuple(_plug(case, kept, where) for where in own_places(case) if not case.remote(where))


def _plug(case: Case, kept: tuple[Lying, ...], where: Where) -> Plug:
    parts, here = list[Estimate](), central(case, where)
    # What follows owned machines stands there when these are gone: the busiest month, not the sum of all.
    busiest = max(range(case.months), key=lambda month: sum(_drawn_kw(fleet, month) for fleet in here))
    for fleet in here:
        plate = _drawn_kw(fleet, busiest)
        parts.append(Estimate(value=plate, low=NAME_PLATE * plate, high=plate, unit="kW"))
    units = max(sum(_units(fleet, month) for fleet in here) for month in range(case.months))
    terabytes, gear = max(own_terabytes(kept, where), default=0.0), gear_at(case, where)
    if terabytes:
        parts.append(case.catalog.part("storage.draw").scaled(terabytes / 1000, unit="kW"))
        units += math.ceil(case.catalog.part("storage.space").value * terabytes)
    if gear.switches:
        parts += gear_draw(case, gear)
        units += gear.switches
    if (seat := own_servers(case)) is not None and seat.where == where:
        parts.append(drawn(case, max(seat.counts)))
        units += UNITS * max(seat.counts)
    basis = case.ledger.basis(
        f"power.{where.placement}.{where.region}".lower(),
        "formula",
        "peak draw at the plug, cooling included",
        formula="(machines at their name plates + storage + switches) x PUE",
        facts=_pue(case, where).drivers,
    )
    return Plug(where, _at_plug(case, where, total(parts or [exact(0.0, "kW")], "kW"), basis), units)


def _drawn_kw(fleet: Fleet, month: int) -> float:
    return max(_plate_w(fleet), fleet.busy_w) * fleet.at_once[month] / 1000


def _units(fleet: Fleet, month: int) -> float:
    return fleet.node.rack_units * fleet.at_once[month] if fleet.node is not None else 0.0


def _plate_w(fleet: Fleet) -> float:
    return fleet.node.power_w if fleet.node is not None else 0.0


def _at_plug(case: Case, where: Where, bare: Estimate, basis: str) -> Estimate:
    overhead = power.overhead(where.placement, colocated=colocated(case, where), catalog=case.catalog)
    parts = [bare] if overhead is None else [bare, case.catalog.part(overhead)]
    return product(parts, bare.unit, basis)


def building(case: Case, where: Where) -> float:
    """What the building multiplies a machine's draw by."""
    return _pue(case, where).usd


def _pue(case: Case, where: Where) -> Price:
    overhead = power.overhead(where.placement, colocated=colocated(case, where), catalog=case.catalog)
    return Price(1.0, ()) if overhead is None else case.quotes.part(overhead)


def draw(case: Case, fleet: Fleet) -> Price:
    """kWh of one of its machines in a month, without the building; a basis of its own."""
    watts = power.draw_of(fleet.busy_w, _plate_w(fleet), case.catalog).mean(fleet.busy)
    basis = case.ledger.basis(
        f"draw.{fleet.machine.id}.{'+'.join(fleet.workloads)}.{fleet.busy_w * fleet.busy:.4g}",
        "formula",
        f"mean draw of a machine: {fleet.machine.id}",
        formula=f"busy {fleet.busy:.0%} of the time at {fleet.busy_w:,.0f} W, else idle",
        facts=case.quotes.part("idle.draw").drivers,
    )
    case.ledger.drive(replace(watts, basis=basis))
    return Price(power.kwh(watts.value, HOURS_PER_MONTH), (basis,))


def energy_terms(case: Case, kept: tuple[Lying, ...]) -> list[Term]:
    terms: list[Term] = []
    for where in own_places(case):
        price, pue = case.quotes.electricity(where.country), _pue(case, where)
        usd, drivers = price.usd * pue.usd, (*price.drivers, *pue.drivers)
        for fleet in fleets_at(case, where):
            one = draw(case, fleet)
            flow = [count * one.usd * usd for count in fleet.machines]
            line = f"electricity of {fleet.machine.id} for {', '.join(fleet.workloads)} in {where.region}"
            paid = following(line, "energy", flow, (*drivers, *one.drivers))
            terms.append(paid._replace(machines_of=fleet.workloads))
        terms += _other_energy(case, kept, where, Price(usd, drivers))
    return [term for term in terms if term.sum > 0]


def _other_energy(case: Case, kept: tuple[Lying, ...], where: Where, kwh: Price) -> Iterable[Term]:
    """Of storage and switches, on all the time."""
    terabytes, gear = own_terabytes(kept, where), gear_at(case, where)
    if terabytes:
        one = case.quotes.part("storage.draw")
        flow = [power.kwh(amount * one.usd, HOURS_PER_MONTH) * kwh.usd for amount in terabytes]
        yield following(f"electricity of storage in {where.region}", "energy", flow, (*kwh.drivers, *one.drivers))
    counts = (("front-end switches", gear.front), ("cluster switches", gear.fabric))
    for name, (what, count) in zip(DRAWS, counts, strict=True):
        if count:
            one = case.quotes.part(name)
            usd = count * one.usd * HOURS_PER_MONTH * kwh.usd
            line = f"electricity of {what} in {where.region}"
            yield recurring(line, "energy", usd, case.months, (*kwh.drivers, *one.drivers))
    if (seat := own_servers(case)) is not None and seat.where == where:
        yield host_energy(case, seat, kwh)


def space_terms(case: Case, places: tuple[Plug, ...]) -> list[Term]:
    """Rented space is paid by the kW that is provisioned for the machines; a site of one's own is there already."""
    terms = []
    for place in places:
        if colocated(case, place.where) and place.power_kw.value > 0:
            price, pue = case.quotes.part("colo.kw-month"), _pue(case, place.where)
            usd = place.power_kw.value / pue.usd * price.usd
            terms.append(recurring(f"colocation in {place.where.region}", "facility", usd, case.months, price.drivers))
    return terms


def energy_by_place(case: Case, kept: tuple[Lying, ...]) -> dict[Where, Estimate]:
    """kWh of a month at the plug, mean over the horizon, for every place with machines or storage of its own."""
    found: dict[Where, Estimate] = {}
    for where in dict.fromkeys([*(fleet.where for fleet in case.fleets), *own_places(case)]):
        parts = []
        for fleet in fleets_at(case, where):
            machines = sum(fleet.machines) / case.months
            watts = case.ledger.driver(draw(case, fleet).drivers[0])
            parts.append(watts.scaled(machines * HOURS_PER_MONTH / 1000, unit="kWh"))
        if where.placement in OWN:
            terabytes = own_terabytes(kept, where)
            mean = sum(terabytes) / case.months
            parts.append(case.catalog.part("storage.draw").scaled(mean * HOURS_PER_MONTH / 1000, unit="kWh"))
            parts += [one.scaled(HOURS_PER_MONTH, unit="kWh") for one in gear_draw(case, gear_at(case, where))]
            if (seat := own_servers(case)) is not None and seat.where == where:
                there = drawn(case, sum(seat.counts) / case.months)
                parts.append(there.scaled(HOURS_PER_MONTH, unit="kWh"))
        found[where] = _at_plug(case, where, total(parts, "kWh"), "")
    return found
