"""Distance of a device and an engine from the fitted rows, and measured corrections of a device's stated rates.

The same rules apply to predictions, benchmark scores and plans:
- A device whose power limit keeps it far below its stated rate gets its sustained matmul rate (work_efficiencies.csv).
- Each property that no fitted row has (engine, vendor, the engine on devices of the vendor) or few have (no bf16)
  widens the band like a weak row does.
  Another generation of a known vendor does not: ten measured rows of two were at 0.84 to 1.00 of the prediction.
- The stated figures of a device have an independent error band from their row's confidence and age.
"""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.catalog.tables.work_rate_parsers import WorkRate
from archwright.sizing.step_time.fitted_tables import FittedTable
from archwright.sizing.step_time.step_work import DeviceSpec

HOST_KIND = "cpu"
WIDE_FORMAT = "bf16"


def apply_sustained_rates(stated: DeviceSpec, accelerator: Accelerator, catalog: Catalog) -> DeviceSpec:
    row = _find_sustained_rate(accelerator, catalog)
    if row is None:
        return stated
    return _scale_rates(stated, row.typical)


def apply_local_rates(stated: DeviceSpec, accelerator: Accelerator) -> DeviceSpec:
    """Return the rates of kernels that add 16-bit products in 16 bits: half the 8-bit rate, if that is more.

    Consumer devices add in 32 bits at half of that rate, and state the rate so."""
    rates = accelerator.flops
    wide = rates.get(WIDE_FORMAT) or rates.get("fp16") or 0.0
    return _scale_rates(stated, max(rates.get("int8", 0.0) / 2 / wide, 1.0)) if wide else stated


def _scale_rates(stated: DeviceSpec, by: float) -> DeviceSpec:
    trunk, expert, wide = (rate * by for rate in (stated.trunk_rate, stated.expert_rate, stated.wide_rate))
    return stated._replace(trunk_rate=trunk, expert_rate=expert, wide_rate=wide)


def list_extrapolations(accelerator: Accelerator, engine: str, fit: FittedTable) -> tuple[str, ...]:
    """Return the properties that no or hardly any fitted row has, one text each; `engine` is an engine family."""
    pairs, maker = fit.seen["engine_vendor"], accelerator.vendor
    found = []
    if engine not in fit.seen["engine"]:
        found.append("no fitted row is of this engine")
    if not any(pair.endswith(f" {maker}") for pair in pairs):
        found.append(f"no fitted row is of a device of {maker}")
    elif engine in fit.seen["engine"] and pair_engine(engine, accelerator) not in pairs:
        found.append(f"no fitted row is of this engine on a device of {maker}")
    if WIDE_FORMAT not in accelerator.flops:
        found.append("the device has no bf16, and few fitted rows are of such devices")
    return tuple(found)


def pair_engine(engine: str, accelerator: Accelerator) -> str:
    """Return the entry of the fit's names "engine_vendor"."""
    return f"{engine} {accelerator.vendor}"


def extrapolation_facts(accelerator: Accelerator, catalog: Catalog) -> tuple[str, ...]:
    """Return the measurements used in addition to the device's row, as a Basis quotes them."""
    row = _find_sustained_rate(accelerator, catalog)
    return () if row is None else (row.fact,)


def _find_sustained_rate(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """Return the share of the stated rate that a power-limited device sustains, None for other devices."""
    return catalog.work_rates.get(f"serving.rate-{accelerator.id}")
