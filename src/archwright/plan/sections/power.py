"""Lines on power, cooling, energy and carbon: they stand in the network section, with what a building must bring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.tables.cost_records import ServerSpec
from archwright.contract.decision import SectionLine
from archwright.plan.cost.data_placement import OptionContext
from archwright.plan.cost.facility_costs import (
    SitePowerDraw,
    estimate_site_power,
    list_own_places,
    price_pue,
    select_central_fleets,
)
from archwright.plan.cost.operating_costs import estimate_energy_and_carbon, get_grid_intensity
from archwright.plan.cost.storage_and_egress import StoredItems
from archwright.plan.explain.formatting import format_estimate, format_number

RACK_UNITS = 42


class RackGroup(NamedTuple):
    """Racks of one machine type: `each` machines a rack, 0 where air cannot cool one."""

    node: ServerSpec
    machines: int
    each: int

    @property
    def needed(self) -> int:
        return math.ceil(self.machines / self.each) if self.each else self.machines


def list_power_lines(case: OptionContext, kept: StoredItems) -> Iterator[SectionLine]:
    for plug in estimate_site_power(case, kept):
        if plug.where.placement == "on-premises" and plug.power_kw.value > 0:
            yield _build_power_line(case, plug)
            yield from _list_cooling_lines(case, plug)
    yield from _list_energy_lines(case, kept)


def _build_power_line(case: OptionContext, plug: SitePowerDraw) -> SectionLine:
    site, part = case.needs.placement.site, price_pue(case, plug.where).usd
    limits = []
    if site is not None and site.country == plug.where.country:
        limits = [f"{site.power_kw:g} kW" if site.power_kw is not None else ""]
        limits += [f"{site.rack_units:g} rack units" if site.rack_units is not None else ""]
    room = ", ".join(limit for limit in limits if limit)
    modern = case.catalog.parameter("pue.modern").value
    saved = (1 - modern / part) * 100
    return SectionLine(
        topic=f"Power in {plug.where.region}",
        choice=f"{format_number(plug.power_kw.value)} kW at the plug, {format_number(plug.rack_units)} rack units",
        why=(
            f"machines at their name plates, storage and switches, x {part:g} for cooling and conversion"
            + (f"; the site has {room}" if room else "")
            + "; no meter is read by this release"
        ),
        alternative=f"a hall that takes x {modern:g}",
        why_not="already the case" if part <= modern else f"worth {format_number(saved)} % of the bill",
        estimate=plug.power_kw,
        source=case.quotes.sources("pue.average", "pue.modern", "storage.draw", "switch.front-draw"),
    )


def _list_cooling_lines(case: OptionContext, plug: SitePowerDraw) -> Iterator[SectionLine]:
    limit = case.catalog.parameter("cooling.air").value
    for racks in _group_racks(case, plug, limit):
        draw = racks.node.power_w / 1000
        choice = f"liquid cooling, {racks.machines} of {draw:g} kW each"
        why = f"one draws more than the {limit:g} kW a rack that air cools"
        alternative, why_not = "air cooling", "it cannot carry the heat away"
        if racks.each:
            choice = f"{racks.needed} with air cooling, up to {racks.each} machines each"
            why = f"each machine draws up to {draw:g} kW, and air cools about {limit:g} kW a rack"
            alternative, why_not = "liquid cooling", "it pays where racks must be filled: ask the building first"
        yield SectionLine(
            topic=f"Racks of {racks.node.id} in {plug.where.region}",
            choice=choice,
            why=f"{why}; not measured here",
            alternative=alternative,
            why_not=why_not,
            source=case.quotes.sources("cooling.air"),
        )


def _group_racks(case: OptionContext, plug: SitePowerDraw, limit_kw: float) -> Iterator[RackGroup]:
    counts: dict[str, tuple[ServerSpec, int]] = {}
    for fleet in select_central_fleets(case, plug.where):
        if fleet.node is not None:
            before = counts.get(fleet.node.id, (fleet.node, 0))[1]
            counts[fleet.node.id] = (fleet.node, before + fleet.peak)
    for node, machines in counts.values():
        each = min(RACK_UNITS // node.rack_units, limit_kw // (node.power_w / 1000))
        yield RackGroup(node, machines, int(each))


def _list_energy_lines(case: OptionContext, kept: StoredItems) -> Iterator[SectionLine]:
    energy, carbon = estimate_energy_and_carbon(case, kept)
    if energy is None or carbon is None:
        return
    places = dict.fromkeys([*(fleet.where for fleet in case.fleets), *list_own_places(case)])
    rates = ((place.region or place.country, get_grid_intensity(case, place)) for place in places)
    grids = ", ".join(f"{name} {format_estimate(rate)}" for name, rate in rates)
    yield SectionLine(
        topic="Energy and carbon",
        choice=f"{format_estimate(energy)} and {format_estimate(carbon)} of carbon",
        why=f"mean over the horizon, cooling included; grids: {grids}; making the hardware is not in here, and no "
        "meter is read by this release",
        alternative="a place with a cleaner grid",
        why_not="residency and price decide first; carbon is one of the axes the options are compared on",
        estimate=carbon,
    )
