"""People who run the platform: full-time equivalents by what there is to run, and what they cost.

FTE = a floor for each kind of place + own machines / servers per FTE + rented machines / rented servers per FTE, of the
machines that run at once at the busiest moment of the month.
Engineers who build models and products are not in here: they are the same in every option.
"""

from __future__ import annotations

import math

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.needs import Needs, Placement
from archwright.contract.plan import OWN_PLACEMENTS
from archwright.plan.accounting.budget import USD
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.accounting.fleet import Location
from archwright.plan.cost.data_placement import OptionContext, list_online_workloads
from archwright.plan.cost.prices import UnitPrice

FTE_FLOOR_PARTS: dict[Placement, str] = {
    "on-premises": "staff.own",
    "hybrid": "staff.own",
    "cloud": "staff.rented",
    "serverless": "staff.serverless",
    "hosted-api": "staff.hosted",
}
BATCH_ONLY_FLOOR = "staff.jobs"
SERVERS_PER_FTE_PARTS = {True: "servers-per-fte", False: "servers-per-fte.rented"}
# The two places whose rates the catalog states, by country or group.
SALARY_PARTS = (("US", "staff.us"), ("EEA", "staff.europe"))


def price_staff(case: OptionContext) -> list[CashFlow]:
    """Who is on the payroll already costs as much, and is named apart; nothing of it counts to the monthly limit."""
    if all(place.placement == "this-machine" for place in case.where):
        return []
    fte, rate = _estimate_fte(case), _price_engineer(case)
    on_hand = case.needs.organisation.platform_engineers
    needed, drivers = fte[0], (*fte[1].drivers, *rate.drivers)
    month = rate.usd / 12
    flows = {"platform engineers": [month * one for one in needed]}
    if on_hand is not None:
        kept = [month * min(one, on_hand) for one in needed]
        new = [month * max(0.0, one - on_hand) for one in needed]
        flows = {"platform engineers, on the payroll already": kept, "platform engineers to hire": new}
    terms = (make_varying_flow(line, "staff", flow, drivers)._replace(budgeted=False) for line, flow in flows.items())
    return [term for term in terms if on_hand is None or term.sum > 0]


def compute_machine_staff_usd(needs: Needs, catalog: Catalog, *, own: bool) -> float:
    """USD a month of the people whom one more machine takes: what makes few large machines cheaper than many."""
    return _get_engineer_usd(needs, catalog) / 12 / catalog.parameter(SERVERS_PER_FTE_PARTS[own]).value


def compute_serving_staff_usd(needs: Needs, catalog: Catalog) -> float:
    """USD over the horizon of the people who look after rented machines that answer, beyond those for jobs alone."""
    more = catalog.parameter(FTE_FLOOR_PARTS["cloud"]).value - catalog.parameter(BATCH_ONLY_FLOOR).value
    return max(0.0, more) * _get_engineer_usd(needs, catalog) / 12 * needs.budget.horizon_months


def _get_engineer_usd(needs: Needs, catalog: Catalog) -> float:
    """The figure that `_price_engineer` keeps as a fact."""
    country = needs.organisation.country
    named = next((name for place, name in SALARY_PARTS if catalog.is_inside(country, place)), None)
    if named is not None:
        return catalog.parameter(named).value
    return math.prod(catalog.parameter(name).value for _, name in SALARY_PARTS) ** 0.5


def count_missing_engineers(case: OptionContext) -> float:
    """FTE beyond those the organisation has, in the busiest month; 0 where the needs state none."""
    on_hand = case.needs.organisation.platform_engineers
    return 0.0 if on_hand is None else max(0.0, max(_estimate_fte(case)[0]) - on_hand)


def _estimate_fte(case: OptionContext) -> tuple[tuple[float, ...], UnitPrice]:
    """FTE month by month, and the facts all of it is proportional to: how many people a platform really takes, against
    what is counted here. Half of what is not known of it is the same for all options; the other half belongs to the
    floors that an option has, so that two of the same kind are not told apart by chance and two of different kinds are
    not sure to differ.
    """
    places = (place for place in case.where if place.placement in FTE_FLOOR_PARTS)
    floors = tuple(dict.fromkeys(_choose_fte_floor(case, place) for place in places))
    flow = [sum(case.catalog.parameter(name).value for name in floors)] * case.months
    for own, name in SERVERS_PER_FTE_PARTS.items():
        each = 1 / case.catalog.parameter(name).value
        flow = [now + count * each for now, count in zip(flow, _count_busiest_machines(case, own=own), strict=True)]
    bands = [_register_headcount_band(case, shared) for shared in ("", "+".join(sorted(floors)))]
    return tuple(flow), UnitPrice(1.0, tuple(bands))


def _register_headcount_band(case: OptionContext, floors: str) -> str:
    """The half that all options share, or that of some floors."""
    names = sorted({*FTE_FLOOR_PARTS.values(), BATCH_ONLY_FLOOR, *SERVERS_PER_FTE_PARTS.values()})
    whose = f", with {floors}" if floors else ""
    basis = case.ledger.create_basis(
        f"staff.need{'.' if floors else ''}{floors}",
        "assumed",
        f"people a platform takes, against those counted{whose}",
        formula="FTE = a floor for each kind of place + machines / machines per FTE; band: half, in the squared "
        "log, of that of a house's floor",
        facts=case.quotes.drivers(names),
    )
    floor = case.catalog.parameter(FTE_FLOOR_PARTS["on-premises"])
    low, high = ((end / floor.value) ** 0.5**0.5 for end in (floor.low, floor.high))
    return case.ledger.register_driver(Estimate(value=1.0, low=low, high=high, unit="", basis=basis))


def _choose_fte_floor(case: OptionContext, place: Location) -> str:
    """Who rents machines for jobs alone, beside answers that come from elsewhere, has less to look after."""
    here = {name for fleet in case.fleets if fleet.where == place for name in fleet.workloads}
    if place.placement == "cloud" and here and not here & list_online_workloads(case.needs):
        return BATCH_ONLY_FLOOR
    return FTE_FLOOR_PARTS[place.placement]


def _count_busiest_machines(case: OptionContext, *, own: bool) -> list[float]:
    """Month by month, at its busiest; those of the platform with them."""
    here = [fleet.monthly_peaks for fleet in case.fleets if (fleet.where.placement in OWN_PLACEMENTS) == own]
    if case.seat is not None and (case.seat.offer is None) == own:
        here.append(case.seat.counts)
    return [sum(machines[month] for machines in here) for month in range(case.months)]


def _price_engineer(case: OptionContext) -> UnitPrice:
    """USD of one FTE a year: of the organisation's part of the world, else between the two that are known."""
    country = case.needs.organisation.country
    for place, name in SALARY_PARTS:
        if case.catalog.is_inside(country, place):
            return case.quotes.part(name)
    low, high = (case.catalog.parameter(name) for name in sorted(name for _, name in SALARY_PARTS))
    middle = multiply_estimates([low, high], "").value ** 0.5
    basis = case.ledger.create_basis(
        f"staff.{country}".lower(),
        "assumed",
        f"a platform engineer in {country}, loaded",
        formula="no figure for the country: the middle of Western Europe and the US, from half of the lower's low end",
        facts=tuple(driver for _, name in SALARY_PARTS for driver in case.quotes.part(name).drivers),
    )
    rate = Estimate(value=middle, low=low.low / 2, high=high.high, unit=f"{USD}/FTE-year", basis=basis)
    return UnitPrice(middle, (case.ledger.register_driver(rate),))
