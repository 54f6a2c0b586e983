"""Platform engineers: full-time equivalents (FTE) of an option, and their cost.

FTE = a floor for each kind of place + own machines / servers per FTE + rented machines / rented servers per FTE, for
the machines that run at the busiest moment of the month.
Engineers who build models and products are not included: they are the same in every option.
"""

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
from archwright.plan.demand.forecast import MONTHS_PER_YEAR

FTE_FLOOR_PARTS: dict[Placement, str] = {
    "on-premises": "staff.own",
    "hybrid": "staff.own",
    "cloud": "staff.rented",
    "serverless": "staff.serverless",
    "hosted-api": "staff.hosted",
}
BATCH_ONLY_FLOOR = "staff.jobs"
SERVERS_PER_FTE_PARTS = {True: "servers-per-fte", False: "servers-per-fte.rented"}
# The two regions with a salary in the catalog, by country or group.
SALARY_PARTS = (("US", "staff.us"), ("EEA", "staff.europe"))


def price_staff(case: OptionContext) -> list[CashFlow]:
    """Return staff costs, outside the monthly limit; employed engineers cost the same and have their own line."""
    if all(place.placement == "this-machine" for place in case.where):
        return []
    fte, rate = _estimate_fte(case), _price_engineer(case)
    on_hand = case.needs.organisation.platform_engineers
    needed, drivers = fte[0], (*fte[1].drivers, *rate.drivers)
    month = rate.usd / MONTHS_PER_YEAR
    flows = {"platform engineers": [month * one for one in needed]}
    if on_hand is not None:
        kept = [month * min(one, on_hand) for one in needed]
        new = [month * max(0.0, one - on_hand) for one in needed]
        flows = {"platform engineers, on the payroll already": kept, "platform engineers to hire": new}
    terms = (make_varying_flow(line, "staff", flow, drivers)._replace(budgeted=False) for line, flow in flows.items())
    return [term for term in terms if on_hand is None or term.sum > 0]


def compute_machine_staff_usd(needs: Needs, catalog: Catalog, *, own: bool) -> float:
    """Return the USD per month of staff for one more machine, which favours few large machines."""
    return _get_engineer_usd(needs, catalog) / MONTHS_PER_YEAR / catalog.parameter(SERVERS_PER_FTE_PARTS[own]).value


def compute_serving_staff_usd(needs: Needs, catalog: Catalog) -> float:
    """Return the USD over the horizon of staff for rented serving machines, beyond staff for jobs alone."""
    more = catalog.parameter(FTE_FLOOR_PARTS["cloud"]).value - catalog.parameter(BATCH_ONLY_FLOOR).value
    return max(0.0, more) * _get_engineer_usd(needs, catalog) / MONTHS_PER_YEAR * needs.budget.horizon_months


def _get_engineer_usd(needs: Needs, catalog: Catalog) -> float:
    """Return the cost per year of one FTE, the value of `_price_engineer`."""
    for place, name in SALARY_PARTS:
        if catalog.is_inside(needs.organisation.country, place):
            return catalog.parameter(name).value
    return math.prod(catalog.parameter(name).value for _, name in SALARY_PARTS) ** 0.5


def count_missing_engineers(case: OptionContext) -> float:
    """Return the missing FTE in the busiest month; 0 if the needs state no engineers."""
    on_hand = case.needs.organisation.platform_engineers
    return 0.0 if on_hand is None else max(0.0, max(_estimate_fte(case)[0]) - on_hand)


def _estimate_fte(case: OptionContext) -> tuple[tuple[float, ...], UnitPrice]:
    """Return FTE per month, and the facts for the real headcount relative to the counted one.

    Design: half of this uncertainty is common to all options, the other half belongs to the option's floors. So options
    of the same kind do not differ by chance, and options of different kinds do not differ with certainty.
    """
    places = (place for place in case.where if place.placement in FTE_FLOOR_PARTS)
    floors = tuple(dict.fromkeys(_choose_fte_floor(case, place) for place in places))
    flow = [sum(case.catalog.parameter(name).value for name in floors)] * case.months
    for own, name in SERVERS_PER_FTE_PARTS.items():
        each = 1 / case.catalog.parameter(name).value
        here = [fleet.monthly_peaks for fleet in case.fleets if (fleet.where.placement in OWN_PLACEMENTS) == own]
        if case.seat is not None and (case.seat.offer is None) == own:
            here.append(case.seat.counts)
        flow = [now + sum(machines[month] for machines in here) * each for month, now in enumerate(flow)]
    bands = [_register_headcount_band(case, shared) for shared in ("", "+".join(sorted(floors)))]
    return tuple(flow), UnitPrice(1.0, tuple(bands))


def _register_headcount_band(case: OptionContext, floors: str) -> str:
    """Register the half of all options, or the half of some floors; return its basis."""
    names = sorted({*FTE_FLOOR_PARTS.values(), BATCH_ONLY_FLOOR, *SERVERS_PER_FTE_PARTS.values()})
    floor = case.catalog.parameter(FTE_FLOOR_PARTS["on-premises"])
    low, high = ((end / floor.value) ** 0.5**0.5 for end in (floor.low, floor.high))
    return case.ledger.create_driver(
        Estimate(value=1.0, low=low, high=high, unit=""),
        f"staff.need{'.' if floors else ''}{floors}",
        "assumed",
        f"actual platform engineers / planned platform engineers{f', with {floors}' if floors else ''}",
        formula="FTE = a floor for each kind of place + machines / machines per FTE; interval: half, in the squared "
        "log, of that of the on-premises floor",
        facts=case.quotes.drivers(names),
    ).basis


def _choose_fte_floor(case: OptionContext, place: Location) -> str:
    """Return the floor of a place; rented machines that run only jobs need less staff."""
    here = {name for fleet in case.fleets if fleet.where == place for name in fleet.workloads}
    if place.placement == "cloud" and here and not here & list_online_workloads(case.needs):
        return BATCH_ONLY_FLOOR
    return FTE_FLOOR_PARTS[place.placement]


def _price_engineer(case: OptionContext) -> UnitPrice:
    """Return USD per FTE-year: of the organisation's region, else between the two known regions."""
    country = case.needs.organisation.country
    for place, name in SALARY_PARTS:
        if case.catalog.is_inside(country, place):
            return case.quotes.part(name)
    low, high = (case.catalog.parameter(name) for name in sorted(name for _, name in SALARY_PARTS))
    middle = multiply_estimates([low, high], "").value ** 0.5
    rate = case.ledger.create_driver(
        Estimate(value=middle, low=low.low / 2, high=high.high, unit=f"{USD}/FTE-year"),
        f"staff.{country}".lower(),
        "assumed",
        f"cost of a platform engineer in {country}, overhead included",
        formula="no figure for the country: geometric mean of Western Europe and the US; low end: half of the lower",
        facts=tuple(driver for _, name in SALARY_PARTS for driver in case.quotes.part(name).drivers),
    )
    return UnitPrice(middle, (rate.basis,))
