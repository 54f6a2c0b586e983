"""Lines on power, cooling, energy and carbon; they are part of the network section."""

import math
from collections import Counter
from collections.abc import Iterator

from archwright.catalog.tables.cost_records import ServerSpec
from archwright.contract.decision import SectionLine
from archwright.contract.number_format import format_estimate, format_exact, format_number
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
from archwright.plan.sections.guidance import fill_line

RACK_UNITS = 42


def list_power_lines(case: OptionContext, kept: StoredItems) -> Iterator[SectionLine]:
    for plug in estimate_site_power(case, kept):
        if plug.where.placement == "on-premises" and plug.power_kw.value > 0:
            yield _build_power_line(case, plug)
            yield from _list_cooling_lines(case, plug)
    yield from _list_energy_lines(case, kept)


def _build_power_line(case: OptionContext, plug: SitePowerDraw) -> SectionLine:
    site, pue = case.needs.placement.site, price_pue(case, plug.where).usd
    limits = []
    if site is not None and site.country == plug.where.country:
        limits += [f"{format_exact(site.power_kw)} kW"] if site.power_kw is not None else []
        limits += [f"{format_exact(site.rack_units)} rack units"] if site.rack_units is not None else []
    modern = case.catalog.parameter("pue.modern").value
    saved = f"It would save {format_number((1 - modern / pue) * 100)} % of the electricity bill."
    values = {
        "region": plug.where.region,
        "power": format_number(plug.power_kw.value),
        "units": format_number(plug.rack_units),
        "pue": pue,
        "site": f"; the site has {', '.join(limits)}" if limits else "",
        "modern": modern,
        "saved": "This hall is as efficient already." if pue <= modern else saved,
    }
    source = case.quotes.sources("pue.average", "pue.modern", "storage.draw", "switch.front-draw")
    return fill_line("power.site", values, estimate=plug.power_kw, source=source)


def _list_cooling_lines(case: OptionContext, plug: SitePowerDraw) -> Iterator[SectionLine]:
    """Racks of each machine type."""
    limit_kw, nodes = case.catalog.parameter("cooling.air").value, dict[str, ServerSpec]()
    counts = Counter[str]()
    for fleet in select_central_fleets(case, plug.where):
        if fleet.node is not None:
            nodes[fleet.node.id] = fleet.node
            counts[fleet.node.id] += fleet.peak
    for name, machines in counts.items():
        draw_kw = nodes[name].power_w / 1000
        # Machines per rack, 0 if air cannot cool a single machine.
        each = int(min(RACK_UNITS // nodes[name].rack_units, limit_kw // draw_kw))
        values = {"region": plug.where.region, "machine": name, "machines": machines, "each": each, "draw": draw_kw}
        values |= {"racks": math.ceil(machines / each) if each else machines, "limit": limit_kw}
        template = "power.racks-air" if each else "power.racks-liquid"
        yield fill_line(template, values, source=case.quotes.sources("cooling.air"))


def _list_energy_lines(case: OptionContext, kept: StoredItems) -> Iterator[SectionLine]:
    energy, carbon = estimate_energy_and_carbon(case, kept)
    if energy is None or carbon is None:
        return
    places = dict.fromkeys([*(fleet.where for fleet in case.fleets), *list_own_places(case)])
    rates = ((place.region or place.country, get_grid_intensity(case, place)) for place in places)
    grids = ", ".join(f"{name} {format_estimate(rate)}" for name, rate in rates)
    values = {"energy": format_estimate(energy), "carbon": format_estimate(carbon), "grids": grids}
    yield fill_line("power.energy", values, estimate=carbon)
