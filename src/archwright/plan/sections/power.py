"""Lines on power, cooling, energy and carbon: they stand in the network section, with what a building must bring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.tables.cost_records import Node
from archwright.contract.decision import SectionLine
from archwright.plan.accounting.fleet import Where
from archwright.plan.cost.data_placement import Case
from archwright.plan.cost.facility_costs import Plug, building, central, own_places, plugs
from archwright.plan.cost.operating_costs import energy_of, grid_at
from archwright.plan.cost.storage_and_egress import Lying
from archwright.plan.explain.formatting import digits, shown

RACK_UNITS = 42


class Racks(NamedTuple):
    """Racks of one machine type: `each` machines a rack, 0 where air cannot cool one."""

    node: Node
    machines: int
    each: int

    @property
    def needed(self) -> int:
        return math.ceil(self.machines / self.each) if self.each else self.machines


def power_lines(case: Case, kept: tuple[Lying, ...]) -> Iterator[SectionLine]:
    for plug in plugs(case, kept):
        if plug.where.placement == "on-premises" and plug.power_kw.value > 0:
            yield _power(case, plug)
            yield from _cooling(case, plug)
    yield from _energy(case, kept)


def _power(case: Case, plug: Plug) -> SectionLine:
    site, part = case.needs.placement.site, building(case, plug.where)
    limits = []
    if site is not None and site.country == plug.where.country:
        limits = [f"{site.power_kw:g} kW" if site.power_kw is not None else ""]
        limits += [f"{site.rack_units:g} rack units" if site.rack_units is not None else ""]
    room = ", ".join(limit for limit in limits if limit)
    modern = case.catalog.part("pue.modern").value
    return SectionLine(
        topic=f"Power in {plug.where.region}",
        choice=f"{digits(plug.power_kw.value)} kW at the plug, {digits(plug.rack_units)} rack units",
        why=(
            f"machines at their name plates, storage and switches, x {part:g} for cooling and conversion"
            + (f"; the site has {room}" if room else "")
            + "; no meter is read by this release"
        ),
        alternative=f"a hall that takes x {modern:g}",
        why_not="already the case" if part <= modern else f"worth {digits((1 - modern / part) * 100)} % of the bill",
        estimate=plug.power_kw,
        source=case.quotes.sources("pue.average", "pue.modern", "storage.draw", "switch.front-draw"),
    )


def _cooling(case: Case, plug: Plug) -> Iterator[SectionLine]:
    limit = case.catalog.part("cooling.air").value
    for racks in _racks(case, plug, limit):
        draw = racks.node.power_w / 1000
        name = f"Racks of {racks.node.id} in {plug.where.region}"
        if racks.each:
            yield SectionLine(
                topic=name,
                choice=f"{racks.needed} with air cooling, up to {racks.each} machines each",
                why=f"each machine draws up to {draw:g} kW, and air cools about {limit:g} kW a rack; not measured here",
                alternative="liquid cooling",
                why_not="it pays where racks must be filled: ask the building first",
                source=case.quotes.sources("cooling.air"),
            )
        else:
            yield SectionLine(
                topic=name,
                choice=f"liquid cooling, {racks.machines} of {draw:g} kW each",
                why=f"one draws more than the {limit:g} kW a rack that air cools; not measured here",
                alternative="air cooling",
                why_not="it cannot carry the heat away",
                source=case.quotes.sources("cooling.air"),
            )


def _racks(case: Case, plug: Plug, limit_kw: float) -> Iterator[Racks]:
    counts: dict[str, tuple[Node, int]] = {}
    for fleet in central(case, plug.where):
        if fleet.node is not None:
            before = counts.get(fleet.node.id, (fleet.node, 0))[1]
            counts[fleet.node.id] = (fleet.node, before + fleet.peak)
    for node, machines in counts.values():
        each = min(RACK_UNITS // node.rack_units, limit_kw // (node.power_w / 1000))
        yield Racks(node, machines, int(each))


def _energy(case: Case, kept: tuple[Lying, ...]) -> Iterator[SectionLine]:
    energy, carbon = energy_of(case, kept)
    if energy is None or carbon is None:
        return
    places = dict.fromkeys([*(fleet.where for fleet in case.fleets), *own_places(case)])
    grids = ", ".join(f"{_name(place)} {shown(grid_at(case, place))}" for place in places)
    yield SectionLine(
        topic="Energy and carbon",
        choice=f"{shown(energy)} and {shown(carbon)} of carbon",
        why=f"mean over the horizon, cooling included; grids: {grids}; making the hardware is not in here, and no "
        "meter is read by this release",
        alternative="a place with a cleaner grid",
        why_not="residency and price decide first; carbon is one of the axes the options are compared on",
        estimate=carbon,
    )


def _name(where: Where) -> str:
    return where.region or where.country
