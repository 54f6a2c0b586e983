"""Watts, kilowatt-hours and grams: what machines draw, what a building adds, what a grid emits.

energy of a month = machines x (busy share x busy draw + idle share x idle draw) x hours x PUE
carbon = energy x what the grid emits per kWh, yearly mean: the hour of day is not in here
"""

from __future__ import annotations

from statistics import median
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates, sum_estimates, within_factor
from archwright.contract.needs import Placement

# What a building adds, by where machines stand: parts of the catalog. A machine under a desk has no cooling of its own.
PUE_PARTS: dict[Placement, str] = {
    "on-premises": "pue.average",
    "hybrid": "pue.average",
    "cloud": "pue.cloud",
    "serverless": "pue.cloud",
    "hosted-api": "pue.cloud",
}
COLOCATION_PUE_PART = "pue.modern"
# A calculated draw at a load against the metered one: utilisation is not what a meter sees. Assumed.
POWER_BAND_FACTOR = 1.25


class PowerDraw(NamedTuple):
    """One machine's watts: `busy` at its load, `idle` between."""

    busy: float
    idle: Estimate

    def mean(self, share: float, basis: str = "") -> Estimate:
        """With the machine busy for `share` of the time; the busy part is known within POWER_BAND_FACTOR."""
        at_work = share * self.busy
        band = within_factor(at_work, POWER_BAND_FACTOR, "W")
        return sum_estimates([band, self.idle.scaled(1 - share)] if share < 1 else [band], "W", basis)


def estimate_power_draw(busy_w: float, plate_w: float, catalog: Catalog) -> PowerDraw:
    """`plate_w` is the most the machine draws: idle is a share of it, and busy no less than idle."""
    idle = catalog.parameter("idle.draw").scaled(max(plate_w, busy_w), unit="W")
    return PowerDraw(max(busy_w, idle.value), idle)


def select_pue_part(placement: Placement, *, colocated: bool, catalog: Catalog) -> str | None:
    """The part that says what the building adds; None where nothing is added."""
    return COLOCATION_PUE_PART if placement == "on-premises" and colocated else PUE_PARTS.get(placement)


def to_kwh(watts: float, hours: float) -> float:
    return watts / 1000 * hours


def estimate_grid_intensity(country: str, catalog: Catalog, region_grams: float | None = None) -> Estimate:
    """g/kWh of a place: the region's own figure, the country's, else the middle and the span of every grid known."""
    known = catalog.grid_gco2_per_kwh(country)
    if region_grams is not None:
        factor = known.factor if known is not None else POWER_BAND_FACTOR
        return within_factor(region_grams, factor, "g/kWh")
    if known is not None:
        return known
    every = sorted(row.grid_gco2_per_kwh for row in catalog.tariffs if row.grid_gco2_per_kwh is not None)
    return Estimate(value=median(every), low=every[0], high=every[-1], unit="g/kWh")


def carbon_kg(energy_kwh: Estimate, grams_per_kwh: Estimate, basis: str = "") -> Estimate:
    return multiply_estimates([energy_kwh, grams_per_kwh.scaled(1e-3, unit="kg/kWh")], "kg", basis)
