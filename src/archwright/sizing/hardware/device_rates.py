"""What the parts of a machine make of work that is not answering with text, from the catalog's rows."""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.model.numeric_precision import matmul_rate

THREADS_A_CORE = 2


def read_work_rate(catalog: Catalog, name: str, basis: str = "") -> Estimate:
    """A figure of work_efficiencies.csv with its band."""
    row = catalog.work_rates[name]
    if row.low < row.high:
        return Estimate(value=row.typical, low=row.low, high=row.high, unit=row.unit, basis=basis)
    return catalog.estimate(row, row.typical, row.unit, basis)


def quote_work_rates(catalog: Catalog, *names: str) -> tuple[str, ...]:
    """The rows as a basis quotes them."""
    return tuple(catalog.work_rates[name].fact for name in names)


def estimate_flops_rate(work: str, machine: Machine, catalog: Catalog) -> tuple[Estimate, tuple[str, ...]]:
    """FLOP/s of one device, or of one core, at a network's work (`embedding`, `vision`); the rows it rests on."""
    if machine.accelerator is not None and has_devices(machine):
        name = f"{work}.accelerator"
        stated = machine.accelerator.band(matmul_rate(machine.accelerator, "bf16"), "FLOP/s")
        return multiply_estimates([stated, read_work_rate(catalog, name)], "FLOP/s"), (name,)
    used = (f"{work}.host", "host.core", "host.scaling")
    return multiply_estimates([read_work_rate(catalog, name) for name in used], "FLOP/s"), used


def host_cores(machine: Machine) -> int:
    """Processor cores: providers count hardware threads, and two of them share a core."""
    return max(1, machine.cores // THREADS_A_CORE)


def host_flops(machine: Machine, catalog: Catalog) -> Estimate:
    """FLOP/s of matrix products in 32 bits when all cores of the machine work."""
    each = multiply_estimates([read_work_rate(catalog, "host.core"), read_work_rate(catalog, "host.scaling")], "FLOP/s")
    return each if host_cores(machine) == 1 else each.scaled(host_cores(machine))


def has_devices(machine: Machine) -> bool:
    """Whether it has accelerators of their own memory: a processor's row in the table of accelerators is the host."""
    return machine.accelerator is not None and machine.accelerator.memory_bytes > 0


def busy_power_w(machine: Machine, catalog: Catalog, *, accelerated: bool) -> float:
    """Watts at work: a base, the accelerators at their share of the stated power or else the cores."""
    base, core = read_work_rate(catalog, "host.power-base").value, read_work_rate(catalog, "host.power").value
    if machine.accelerator is None or not accelerated:
        return base + core * host_cores(machine)
    stated = machine.accelerator.tdp_w or read_work_rate(catalog, "accelerator.power-unstated").value
    share = read_work_rate(catalog, "accelerator.power").value
    # While devices work, about an eighth of the cores feeds them.
    return base + core * host_cores(machine) / 8 + share * stated * machine.accelerator_count
