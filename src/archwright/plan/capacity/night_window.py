"""The night of a site: hours outside the opening hours of its services, in which jobs use machines that serve by day.

A job runs at night if its longest run ends before the services open again. A service without a target of availability
stops while the job needs its accelerators. Others keep machines for their load outside opening hours. A load
without opening hours keeps the machines of its mean. Jobs of one night run one after another.
"""

from collections.abc import Sequence
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.plan.demand.forecast import HOURS_PER_DAY, Demand, list_steady_demands
from archwright.sizing.hardware.machine import SteadyCapacity

# Assumed: opening hours lie around this local hour, for example ten hours from 8:00 to 18:00.
MIDDLE_OF_DAY_H = 13.0
# Assumed: engines start again this long before the services open.
ENGINE_START_H = 0.5


class NightWindow(NamedTuple):
    """`starts_h`: hour of the day in `time_zone`; the window lasts `lasts_h` hours."""

    starts_h: float
    lasts_h: float
    time_zone: str


def find_night_window(needs: Needs, catalog: Catalog) -> NightWindow | None:
    """Return the window outside the longest opening hours of a site; None if no service ever closes."""
    central = (demand for demand in list_steady_demands(needs) if not demand.workload.sites)
    opening_hours = [get_opening_hours(demand) for demand in central if closes(demand)]
    if not opening_hours:
        return None
    longest_h = max(opening_hours)
    lasts_h = HOURS_PER_DAY - longest_h - ENGINE_START_H
    if lasts_h <= 0:
        return None
    country = catalog.countries[needs.organisation.country]
    return NightWindow(MIDDLE_OF_DAY_H + longest_h / 2, lasts_h, country.time_zone)


def get_opening_hours(demand: Demand) -> float:
    traffic = demand.workload.traffic
    return traffic.hours_per_day if traffic is not None else HOURS_PER_DAY


def closes(demand: Demand) -> bool:
    """True if a load has opening hours. Documents with a deadline come at any hour."""
    return get_opening_hours(demand) < HOURS_PER_DAY and not demand.pauses


def may_pause(demand: Demand, steady: SteadyCapacity) -> bool:
    """True if the engines of a load may stop for a job: no target of availability, and accelerators to give."""
    return closes(demand) and demand.workload.slo.availability is None and steady.devices > 0


def select_night_share(demand: Demand, steady: SteadyCapacity, shares: Sequence[float]) -> float:
    """Return the machines that a load keeps at night; `shares`: machines at its levels peak, mean and off-hours."""
    _, mean, off_hours = shares
    if may_pause(demand, steady):
        return 0.0
    return off_hours if closes(demand) else mean
