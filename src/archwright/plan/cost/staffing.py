"""Staff of an option: full-time equivalents (FTE) by role, the part that the team has time for, and the rest's cost.

A full team. Platform: FTE = a floor for each kind of place + own machines / servers per FTE + rented machines / rented
servers per FTE, for the machines that run at the busiest moment of the month. Other roles: a share of an FTE per model,
training job, data set and regulation.
A small option. Hours per month for all roles together: per kind of place, machine and workload.
Between both: FTE = (1 - w) x small + w x full, where w = (a - a0) / (a1 - a0) within 0 .. 1, a = accelerators that run
on average in the month, a0 = accelerators of the largest small option (more for a small organisation), a1 - a0 =
`staff.full-team`. So a further accelerator costs hours, at any size, and hosted models alone always cost hours.
Design: people of `organisation.team` cost nothing here, because the decision does not change their pay; an option pays
the staff beyond the team. Engineers who build products are not included: they are the same in every option.
"""

import math
from collections.abc import Mapping, Sequence
from operator import mul
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates, sum_estimates
from archwright.contract.needs import TEXT_KINDS, TRAINING_KINDS, DataProfile, Needs, Organisation, Placement, Workload
from archwright.contract.number_format import format_number
from archwright.contract.plan import OWN_PLACEMENTS, StaffNeed
from archwright.contract.record import replace
from archwright.plan.accounting.budget import STAFF_CATEGORY, USD
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.candidates import SMALL_EMPLOYEES
from archwright.plan.cost.data_placement import OptionContext, list_online_workloads
from archwright.plan.cost.hardware_lifecycle import find_owned_node
from archwright.plan.cost.prices import UnitPrice
from archwright.plan.demand.forecast import MONTHS_PER_YEAR

PLATFORM, EVERY_ROLE = "platform", "every role"
FTE_FLOOR_PARTS: dict[Placement, str] = {
    "on-premises": "staff.own",
    "hybrid": "staff.own",
    "cloud": "staff.rented",
    "serverless": "staff.serverless",
    "hosted-api": "staff.hosted",
}
BATCH_ONLY_FLOOR = "staff.jobs"
SERVERS_PER_FTE_PARTS = {True: "servers-per-fte", False: "servers-per-fte.rented"}
# Hours per month of a small organisation, by kind of place; then per machine and per workload.
SMALL_PLACE_PARTS: dict[Placement, str] = {
    "on-premises": "staff.small.own",
    "hybrid": "staff.small.own",
    "cloud": "staff.small.rented",
    "serverless": "staff.small.hosted",
    "hosted-api": "staff.small.hosted",
}
SMALL_MACHINE, SMALL_WORKLOAD, HOURS_PART = "staff.small.machine", "staff.small.workload", "staff.hours"
# Accelerators from which an option takes more than hours: those of a desk-side box or one virtual machine; those that a
# small organisation runs without somebody on call.
DESK_ACCELERATORS, SMALL_ACCELERATORS = 2, 16
FULL_TEAM_PART = "staff.full-team"
# Smaller data are a folder of texts.
TENDED_GIB = 1.0
# The two regions with a salary in the catalog, by country or group.
SALARY_PARTS = (("US", "staff.us"), ("EEA", "staff.europe"))


class RoleNeed(NamedTuple):
    """FTE of a role in each month, and the facts that the real headcount is proportional to."""

    role: str
    fte: tuple[float, ...]
    drivers: tuple[str, ...]

    @property
    def mean(self) -> float:
        return sum(self.fte) / len(self.fte)


def price_staff(case: OptionContext) -> list[CashFlow]:
    """Return the cost of staff beyond the team, one line for each role, outside the monthly limit."""
    terms = []
    for need, team in _assign_team(case):
        rate = _price_role(case, need.role)
        flow = [rate.usd / MONTHS_PER_YEAR * (one - there) for one, there in zip(need.fte, team, strict=True)]
        line = f"staff beyond the team: {need.role}"
        terms.append(make_varying_flow(line, STAFF_CATEGORY, flow, (*need.drivers, *rate.drivers)))
    return [term._replace(budgeted=False) for term in terms if term.sum > 0]


def list_staff(case: OptionContext) -> tuple[StaffNeed, ...]:
    """Return the needed FTE by role, mean over the horizon, with the part of the team."""
    found, hours = list[StaffNeed](), case.catalog.parameter(HOURS_PART).value
    for need, team in _assign_team(case):
        used = sum(team) / len(team)
        band = multiply_estimates([case.ledger.driver_estimate(driver) for driver in need.drivers], "FTE")
        basis = case.ledger.create_basis(
            f"staff.{need.role}.{need.mean:.4g}".replace(" ", "-"),
            "formula",
            f"full-time equivalents, mean over the horizon: {need.role}",
            facts=need.drivers,
        )
        needed = replace(band.scaled(need.mean), basis=basis)
        spent = need.mean * hours
        found.append(StaffNeed(role=need.role, needed=needed, team=used, hired=need.mean - used, hours=spent))
    return tuple(found)


def count_team(organisation: Organisation) -> Mapping[str, float]:
    """Return the FTE that exist by role; roles that the needs do not state do not exist."""
    return {PLATFORM: organisation.platform_engineers or 0.0, **organisation.team}


def _assign_team(case: OptionContext) -> list[tuple[RoleNeed, tuple[float, ...]]]:
    """Return each need with the FTE of the team per month; everybody may do the hours of no role in particular."""
    there, found = count_team(case.needs.organisation), list[tuple[RoleNeed, tuple[float, ...]]]()
    free = [sum(there.values())] * case.months
    for need in sorted(list_role_needs(case), key=lambda one: one.role == EVERY_ROLE):
        own = free if need.role == EVERY_ROLE else [there.get(need.role, 0.0)] * case.months
        used = tuple(map(min, need.fte, own))
        free = [left - taken for left, taken in zip(free, used, strict=True)]
        found.append((need, used))
    return found


def describe_hires(needs: Needs, staff: tuple[StaffNeed, ...]) -> tuple[str, ...]:
    """Return notes on the staff that the team has no time for; less than a day per month is not noted.

    A role that the needs do not state is perhaps there, so its hours may be found in the team.
    """
    stated = {role for role, fte in count_team(needs.organisation).items() if fte}
    by_standing: dict[bool, list[str]] = {True: [], False: []}
    for one in staff:
        if one.hired >= 1 / 20:
            there = one.role in stated or (one.role == EVERY_ROLE and bool(stated))
            by_standing[there].append(f"{one.role} {one.format_time(one.hired)}")
    known, unknown = by_standing[True], by_standing[False]
    notes = [f"needs staff beyond the stated team: {', '.join(known)}"] if known else []
    if unknown:
        where = "organisation.team does not state these roles, and the plan pays for them"
        notes.append(f"hours to find in the team or to buy: {', '.join(unknown)}. {where}")
    return tuple(notes)


def compute_machine_staff_usd(needs: Needs, catalog: Catalog, *, own: bool) -> float:
    """Return the USD per month of staff for one more machine, which favours few large machines."""
    return _get_engineer_usd(needs, catalog) / MONTHS_PER_YEAR / catalog.parameter(SERVERS_PER_FTE_PARTS[own]).value


def compute_serving_staff_usd(needs: Needs, catalog: Catalog) -> float:
    """Return the USD over the horizon of staff for rented serving machines beside own ones, beyond the team.

    Compared with rented machines that run only jobs. The share of a full team is that of the owned machines, which is
    known before machines are chosen.
    """
    nodes = ((find_owned_node(catalog, one), one.count) for one in needs.placement.owned)
    owned = sum(node.accelerator_count * count for node, count in nodes if node is not None)
    share = _compute_full_share(needs, catalog, owned)
    own, rented, jobs = (
        catalog.parameter(name).value for name in ("staff.own", FTE_FLOOR_PARTS["cloud"], BATCH_ONLY_FLOOR)
    )
    team = count_team(needs.organisation)[PLATFORM]
    more = max(0.0, share * (own + rented) - team) - max(0.0, share * (own + jobs) - team)
    return more * _get_engineer_usd(needs, catalog) / MONTHS_PER_YEAR * needs.budget.horizon_months


def _get_engineer_usd(needs: Needs, catalog: Catalog) -> float:
    """Return the cost per year of one FTE, the value of `_price_engineer`."""
    for place, name in SALARY_PARTS:
        if catalog.is_inside(needs.organisation.country, place):
            return catalog.parameter(name).value
    return math.prod(catalog.parameter(name).value for _, name in SALARY_PARTS) ** 0.5


# --- what an option needs


def list_role_needs(case: OptionContext) -> tuple[RoleNeed, ...]:
    """Return the need by role, and the hours of no role in particular; nothing on this machine."""
    if all(place.placement == "this-machine" for place in case.where):
        return ()
    roles, small = (_estimate_platform(case), *_estimate_other_roles(case)), _estimate_hours(case)
    if small.mean >= sum(one.mean for one in roles):
        return roles
    full = _compute_full_shares(case)
    shared = (*(_scale_need(one, full) for one in roles), _scale_need(small, [1 - share for share in full]))
    return tuple(one for one in shared if one.mean > 0)


def _scale_need(need: RoleNeed, shares: Sequence[float]) -> RoleNeed:
    return need._replace(fte=tuple(map(mul, need.fte, shares)))


def _compute_full_shares(case: OptionContext) -> list[float]:
    """Return the share of a full team for each month."""
    running = [0.0] * case.months
    for fleet in case.fleets:
        each = max(1, fleet.machine.accelerator_count)
        running = [now + each * count for now, count in zip(running, fleet.machines, strict=True)]
    return [_compute_full_share(case.needs, case.catalog, count) for count in running]


def _compute_full_share(needs: Needs, catalog: Catalog, accelerators: float) -> float:
    """Return the share w of a full team that running accelerators need, 0 .. 1."""
    employees = needs.organisation.employees
    small = employees is not None and employees < SMALL_EMPLOYEES
    start = SMALL_ACCELERATORS if small else DESK_ACCELERATORS
    return min(1.0, max(0.0, (accelerators - start) / catalog.parameter(FULL_TEAM_PART).value))


def _list_served(case: OptionContext) -> list[str]:
    """Return the kinds of places, once each; nobody looks at the alarms of machines that run only jobs."""
    places = [place for place in case.where if place.placement in SMALL_PLACE_PARTS]
    jobs = SMALL_PLACE_PARTS["hosted-api"]
    kinds = (
        jobs if _choose_fte_floor(case, place) == BATCH_ONLY_FLOOR else SMALL_PLACE_PARTS[place.placement]
        for place in places
    )
    return list(dict.fromkeys(kinds))


def _list_machines(case: OptionContext, *, own: bool) -> list[float]:
    """Return the machines at the busiest moment of each month, the control plane's included."""
    here = [fleet.monthly_peaks for fleet in case.fleets if (fleet.where.placement in OWN_PLACEMENTS) == own]
    if case.seat is not None and (case.seat.offer is None) == own:
        here.append(tuple(map(float, case.seat.counts)))
    return [sum(machines[month] for machines in here) for month in range(case.months)]


def _estimate_hours(case: OptionContext) -> RoleNeed:
    # On average: a machine that runs a job for an hour a month takes no day of care.
    running = [fleet.machines for fleet in case.fleets] + ([case.seat.counts] if case.seat is not None else [])
    machines = [float(sum(one[month] for one in running)) for month in range(case.months)]
    fixed = {**dict.fromkeys(_list_served(case), 1.0), SMALL_WORKLOAD: float(len(case.needs.workloads))}
    value = {name: case.catalog.parameter(name).value for name in (*fixed, SMALL_MACHINE, HOURS_PART)}
    base = sum(value[name] * count for name, count in fixed.items())
    fte = tuple((base + value[SMALL_MACHINE] * count) / value[HOURS_PART] for count in machines)
    counts = {**fixed, SMALL_MACHINE: sum(machines) / len(machines)}
    return RoleNeed(EVERY_ROLE, fte, (_register_band(case, EVERY_ROLE, counts),))


def _estimate_other_roles(case: OptionContext) -> list[RoleNeed]:
    """Return the roles whose work depends on models, training jobs, data sets and regulations."""
    needs, hosted = case.needs, any(place.placement == "hosted-api" for place in case.where)
    bought = [one for one in needs.workloads if hosted and one.kind in TEXT_KINDS and one.name not in case.models]
    language = {case.models[one.name].id for one in needs.workloads if one.name in case.models and _writes_text(one)}
    read = {name for one in needs.workloads for name in one.data}
    counts = {
        "machine-learning": {
            "staff.models": len(language),
            "staff.specialists": len({model.id for model in case.models.values()} - language),
            "staff.hosted-models": len(bought),
            "staff.training": sum(one.kind in TRAINING_KINDS for one in needs.workloads),
        },
        "data": {"staff.datasets": sum(one.name in read and _needs_care(one) for one in needs.data)},
        "security": {"staff.regulations": len(needs.regulations)},
    }
    found = []
    for role, parts in counts.items():
        used = {name: float(count) for name, count in parts.items() if count}
        fte = sum(case.catalog.parameter(name).value * count for name, count in used.items())
        if fte:
            found.append(RoleNeed(role, (fte,) * case.months, (_register_band(case, role, used),)))
    return found


def _needs_care(data: DataProfile) -> bool:
    """True unless the data are public or as small as a folder of texts, so that nobody tends a pipeline."""
    return data.sensitivity != "public" and data.size_gib >= TENDED_GIB


def _writes_text(workload: Workload) -> bool:
    """True if a language model serves the workload; embedders, rerankers and speech models need less care."""
    return workload.kind in TEXT_KINDS | TRAINING_KINDS or workload.kind == "vision-language"


def _register_band(case: OptionContext, role: str, counts: Mapping[str, float]) -> str:
    """Register the real headcount of a role relative to the counted one; return its basis."""
    whole = sum_estimates([case.catalog.parameter(name).scaled(count) for name, count in counts.items() if count], "")
    terms = "+".join(f"{count:.3g}-{name.removeprefix('staff.')}" for name, count in counts.items() if count)
    return case.ledger.create_driver(
        Estimate(value=1.0, low=whole.low / whole.value, high=whole.high / whole.value, unit=""),
        f"staff.need.{role}.{terms}".replace(" ", "-"),
        "assumed",
        f"actual staff / planned staff: {role}",
        formula=" + ".join(f"{format_number(count)} x {name}" for name, count in counts.items() if count),
        facts=case.quotes.drivers(sorted(counts)),
    ).basis


def _estimate_platform(case: OptionContext) -> RoleNeed:
    """Estimate the FTE per month of platform engineers.

    Design: half of the uncertainty is common to all options, the other half belongs to the option's floors. So options
    of the same kind do not differ by chance, and options of different kinds do not differ with certainty.
    """
    places = (place for place in case.where if place.placement in FTE_FLOOR_PARTS)
    floors = tuple(dict.fromkeys(_choose_fte_floor(case, place) for place in places))
    flow = [sum(case.catalog.parameter(name).value for name in floors)] * case.months
    for own, name in SERVERS_PER_FTE_PARTS.items():
        each = case.catalog.parameter(name).value
        flow = [now + count / each for now, count in zip(flow, _list_machines(case, own=own), strict=True)]
    bands = [_register_headcount_band(case, shared) for shared in ("", "+".join(sorted(floors)))]
    return RoleNeed(PLATFORM, tuple(flow), tuple(bands))


def _register_headcount_band(case: OptionContext, floors: str) -> str:
    """Register the half of all options, or the half of some floors; return its basis."""
    names = sorted({*FTE_FLOOR_PARTS.values(), BATCH_ONLY_FLOOR, *SERVERS_PER_FTE_PARTS.values(), FULL_TEAM_PART})
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


# --- what a year of staff costs


def _price_role(case: OptionContext, role: str) -> UnitPrice:
    """Return USD per FTE-year: a platform engineer's, times the ratio of the role's wage."""
    engineer, ratio = _price_engineer(case), f"staff.rate.{role}"
    if ratio not in case.catalog.parts:
        return engineer
    times = case.quotes.part(ratio)
    return UnitPrice(engineer.usd * times.usd, (*engineer.drivers, *times.drivers))


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
