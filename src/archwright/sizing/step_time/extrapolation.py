"""How far a device and an engine lie from the fitted rows, and what is known of a device beside its stated rates.

One rule for predictions, for scoring tables and for plans:
- a maker whose devices were measured against the fit (work_efficiencies.csv) is slower by that; a device that its power
  limit keeps far below its stated rate multiplies at what it sustains;
- what no fitted row is like (the engine, an unmeasured maker, arithmetic without bf16) widens the band as a weak row
  does. Other generations of a known maker do not: ten measured rows of two came out at 0.84 to 1.00 of the prediction;
- the device's own figures are off by what their row's confidence and age say, independently.
"""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.catalog.tables.work_rate_parsers import WorkRate
from archwright.contract.estimate import Estimate
from archwright.sizing.step_time.fitted_tables import FittedTable
from archwright.sizing.step_time.step_work import DeviceSpec

HOST_KIND = "cpu"
WIDE_FORMAT = "bf16"


def vendor_slowdown(accelerator: Accelerator, catalog: Catalog) -> float:
    """The time that its steps take over what the fit says."""
    known = _find_vendor_speed(accelerator, catalog)
    return 1.0 if known is None else 1 / known.typical


def apply_sustained_rates(stated: DeviceSpec, accelerator: Accelerator, catalog: Catalog) -> DeviceSpec:
    """The device at the rates it sustains."""
    row = _find_sustained_rate(accelerator, catalog)
    if row is None:
        return stated
    trunk, expert, wide = (rate * row.typical for rate in (stated.trunk_rate, stated.expert_rate, stated.wide_rate))
    return stated._replace(trunk_rate=trunk, expert_rate=expert, wide_rate=wide)


def list_extrapolations(accelerator: Accelerator, engine: str, fit: FittedTable, catalog: Catalog) -> tuple[str, ...]:
    """What no row of the fit is like; `engine` is a family."""
    rows = (catalog.accelerators.get(name) for name in fit.seen["accelerator"])
    makers = {row.vendor for row in rows if row is not None}
    found = []
    if engine not in fit.seen["engine"]:
        found.append("no fitted row is of this engine")
    if accelerator.vendor not in makers and _find_vendor_speed(accelerator, catalog) is None:
        found.append(f"no fitted row is of a device of {accelerator.vendor}")
    if WIDE_FORMAT not in accelerator.flops:
        found.append("the device has no bf16, every fitted one has")
    return tuple(found)


def spec_uncertainty(accelerator: Accelerator, catalog: Catalog) -> Estimate:
    """What the device's stated figures may be off by: a band around 1, wider with age."""
    return catalog.estimate(accelerator, 1.0, "")


def extrapolation_facts(accelerator: Accelerator, catalog: Catalog) -> tuple[str, ...]:
    """The measurements used beside the row, as a basis quotes them."""
    known = (_find_vendor_speed(accelerator, catalog), _find_sustained_rate(accelerator, catalog))
    return tuple(row.fact for row in known if row is not None)


def _find_vendor_speed(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """What devices of its maker were measured to do over what the fit says, where that is another maker's."""
    return catalog.work_rates.get(f"serving.speed-{accelerator.vendor}")


def _find_sustained_rate(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """What a device whose power is limited sustains of its stated rate, where that is less than others do."""
    return catalog.work_rates.get(f"serving.rate-{accelerator.id}")
