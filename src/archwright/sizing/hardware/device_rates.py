"""Compute rates and power of a machine for work other than text generation, from the catalog's work rates."""

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.model.numeric_precision import matmul_rate

THREADS_A_CORE = 2


def read_work_rate(catalog: Catalog, name: str, basis: str = "") -> Estimate:
    """Return a figure of work_efficiencies.csv with its interval; without stated ends, the band of its confidence."""
    row = catalog.work_rates[name]
    if row.low < row.high:
        return Estimate(value=row.typical, low=row.low, high=row.high, unit=row.unit, basis=basis)
    return catalog.estimate(row, row.typical, row.unit, basis)


def quote_work_rates(catalog: Catalog, *names: str) -> tuple[str, ...]:
    """Return the rows as a Basis quotes them."""
    return tuple(catalog.work_rates[name].fact for name in names)


def estimate_flops_rate(work: str, machine: Machine, catalog: Catalog) -> tuple[Estimate, tuple[str, ...]]:
    """Return FLOP/s of one device or one core for `work` ("embedding", "vision"), and the names of the rows used."""
    if machine.accelerator is not None and has_devices(machine):
        name = f"{work}.accelerator"
        stated = machine.accelerator.band(matmul_rate(machine.accelerator, "bf16"), "FLOP/s")
        return multiply_estimates([stated, read_work_rate(catalog, name)], "FLOP/s"), (name,)
    used = (f"{work}.host", "host.core", "host.scaling")
    return multiply_estimates([read_work_rate(catalog, name) for name in used], "FLOP/s"), used


def host_cores(machine: Machine) -> int:
    """Return the physical cores: providers count hardware threads, two per core."""
    return max(1, machine.cores // THREADS_A_CORE)


def host_flops(machine: Machine, catalog: Catalog) -> Estimate:
    """Return the fp32 matmul rate in FLOP/s with all cores busy."""
    each = multiply_estimates([read_work_rate(catalog, "host.core"), read_work_rate(catalog, "host.scaling")], "FLOP/s")
    return each if host_cores(machine) == 1 else each.scaled(host_cores(machine))


def has_devices(machine: Machine) -> bool:
    """True if the machine has accelerators with their own memory (a CPU row of the accelerator table has none)."""
    return machine.accelerator is not None and machine.accelerator.memory_bytes > 0


def busy_power_w(machine: Machine, catalog: Catalog, *, accelerated: bool) -> float:
    """Return the draw under load in W: base + cores + the accelerators at their usual share of the TDP."""
    base, core = read_work_rate(catalog, "host.power-base").value, read_work_rate(catalog, "host.power").value
    if machine.accelerator is None or not accelerated:
        return base + core * host_cores(machine)
    stated = machine.accelerator.tdp_w or read_work_rate(catalog, "accelerator.power-unstated").value
    share = read_work_rate(catalog, "accelerator.power").value
    # About an eighth of the cores is busy feeding the accelerators.
    return base + core * host_cores(machine) / 8 + share * stated * machine.accelerator_count
