"""Distance of a device and an engine from the fitted rows, and measured corrections of a device's stated rates.

The same rules apply to predictions, benchmark scores and plans:
- If devices of a vendor were measured against the fit (work_efficiencies.csv), their step times are scaled by that
  measurement. A device whose power limit keeps it far below its stated rate gets its sustained matmul rate.
- Each property that no fitted row has (engine, unmeasured vendor, no bf16) widens the band like a weak row does.
  Another generation of a known vendor does not: ten measured rows of two were at 0.84 to 1.00 of the prediction.
- The stated figures of a device have an independent error band from their row's confidence and age.
"""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.catalog.tables.work_rate_parsers import WorkRate
from archwright.contract.estimate import Estimate
from archwright.sizing.step_time.fitted_tables import FittedTable
from archwright.sizing.step_time.step_work import DeviceSpec

HOST_KIND = "cpu"
WIDE_FORMAT = "bf16"


def vendor_slowdown(accelerator: Accelerator, catalog: Catalog) -> float:
    """Return the measured step time of the vendor's devices over the fit's prediction; 1 without a measurement."""
    known = _find_vendor_speed(accelerator, catalog)
    return 1.0 if known is None else 1 / known.typical


def apply_sustained_rates(stated: DeviceSpec, accelerator: Accelerator, catalog: Catalog) -> DeviceSpec:
    row = _find_sustained_rate(accelerator, catalog)
    if row is None:
        return stated
    trunk, expert, wide = (rate * row.typical for rate in (stated.trunk_rate, stated.expert_rate, stated.wide_rate))
    return stated._replace(trunk_rate=trunk, expert_rate=expert, wide_rate=wide)


def list_extrapolations(accelerator: Accelerator, engine: str, fit: FittedTable, catalog: Catalog) -> tuple[str, ...]:
    """Return the properties that no fitted row has, one text each; `engine` is an engine family."""
    rows = (catalog.accelerators.get(name) for name in fit.seen["accelerator"])
    vendors = {row.vendor for row in rows if row is not None}
    found = []
    if engine not in fit.seen["engine"]:
        found.append("no fitted row is of this engine")
    if accelerator.vendor not in vendors and _find_vendor_speed(accelerator, catalog) is None:
        found.append(f"no fitted row is of a device of {accelerator.vendor}")
    if WIDE_FORMAT not in accelerator.flops:
        found.append("the device has no bf16, but every fitted device has")
    return tuple(found)


def spec_uncertainty(accelerator: Accelerator, catalog: Catalog) -> Estimate:
    """Return the error band of the device's stated figures, around 1 and wider with the row's age."""
    return catalog.estimate(accelerator, 1.0, "")


def extrapolation_facts(accelerator: Accelerator, catalog: Catalog) -> tuple[str, ...]:
    """Return the measurements used in addition to the device's row, as a Basis quotes them."""
    known = (_find_vendor_speed(accelerator, catalog), _find_sustained_rate(accelerator, catalog))
    return tuple(row.fact for row in known if row is not None)


def _find_vendor_speed(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """Return the measured speed of this vendor's devices over the fit's prediction, None for the fit's own vendor."""
    return catalog.work_rates.get(f"serving.speed-{accelerator.vendor}")


def _find_sustained_rate(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """Return the share of the stated rate that a power-limited device sustains, None for other devices."""
    return catalog.work_rates.get(f"serving.rate-{accelerator.id}")
