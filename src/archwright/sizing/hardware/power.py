"""Power draw of machines in W, energy in kWh with PUE, and carbon emissions in kg.

energy of a month = machines x (busy share x busy draw + idle share x idle draw) x hours x PUE
carbon = energy x grid intensity per kWh (yearly mean; the hour of the day is not modelled)
"""

from statistics import median
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates, sum_estimates, within_factor
from archwright.contract.needs import Placement

# Catalog part with the PUE of each placement. "this-machine" has none: a machine under a desk has no cooling plant.
PUE_PARTS: dict[Placement, str] = {
    "on-premises": "pue.average",
    "hybrid": "pue.average",
    "cloud": "pue.cloud",
    "serverless": "pue.cloud",
    "hosted-api": "pue.cloud",
}
COLOCATION_PUE_PART = "pue.modern"
# Ratio between calculated and metered draw at a load: utilisation is not proportional to power. Assumed.
POWER_BAND_FACTOR = 1.25


class PowerDraw(NamedTuple):
    """Draw of one machine in W: `busy` under its load, `idle` without load."""

    busy: float
    idle: Estimate

    def mean(self, share: float, basis: str = "") -> Estimate:
        """Return the mean draw of a machine that is busy for `share` of the time; band: POWER_BAND_FACTOR."""
        band = within_factor(share * self.busy, POWER_BAND_FACTOR, "W")
        return sum_estimates([band, self.idle.scaled(1 - share)] if share < 1 else [band], "W", basis)


def estimate_power_draw(busy_w: float, plate_w: float, catalog: Catalog) -> PowerDraw:
    """Return the draw of a machine; idle draw is the catalog's share of the maximum draw `plate_w`."""
    idle = catalog.parameter("idle.draw").scaled(max(plate_w, busy_w), unit="W")
    return PowerDraw(max(busy_w, idle.value), idle)


def select_pue_part(placement: Placement, *, colocated: bool, catalog: Catalog) -> str | None:
    """Return the catalog part of the PUE, or None if no PUE applies."""
    return COLOCATION_PUE_PART if placement == "on-premises" and colocated else PUE_PARTS.get(placement)


def to_kwh(watts: float, hours: float) -> float:
    return watts / 1000 * hours


def estimate_grid_intensity(country: str, catalog: Catalog, region_grams: float | None = None) -> Estimate:
    """Return the grid intensity in g/kWh: of the region, else of the country, else median and range of all grids."""
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
