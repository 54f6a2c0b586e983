"""Batch data processing: read, validate, deduplicate, remove personal data, write tables.

  machine-hours = GiB / (GiB/s per core x cores x scaling)
The rates were measured with the project's own ingest and refine of text (docs/benchmarks.md). Machines share the files.
"""

import math

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import multiply_estimates, sum_estimates
from archwright.contract.evidence import Basis
from archwright.sizing.hardware.device_rates import busy_power_w, host_cores, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine

GIB = 2.0**30
HOUR_S = 3600.0
# With less data per core, the start-up time of a machine does not pay off.
LEAST_GIB_A_CORE = 0.25
WORK_NAME = "data-processing"


def size_data_processing(machine: Machine, gib: float, workload: str, catalog: Catalog) -> BatchWork:
    """Size one run over `gib` GiB: every byte is ingested and refined once."""
    steps = [read_work_rate(catalog, name).divide_amount(1.0, "s/byte") for name in ("data.ingest", "data.refine")]
    slowed = read_work_rate(catalog, "host.scaling").divide_amount(1.0, "")
    each = multiply_estimates([sum_estimates(steps, "s/byte"), slowed], "s/byte")
    cores = host_cores(machine)
    basis = Basis(
        id=f"{workload}.{machine.id}.work",
        kind="measured",
        stratum="measured here, other processors and data",
        definition="hours of one machine for a run: each byte ingested and refined once",
        formula="GiB x (1 / ingest + 1 / refine) / (cores x scaling)",
        facts=(
            f"{gib:,.0f} GiB; cores per machine: {cores}",
            *quote_work_rates(catalog, "data.ingest", "data.refine", "host.scaling", "data.scaling"),
        ),
    )
    return BatchWork(
        model=WORK_NAME,
        machine_hours=each.scaled(gib * GIB / cores / HOUR_S, unit="h", basis=basis.id),
        least=1,
        most=max(1, math.floor(gib / LEAST_GIB_A_CORE / cores)),
        scaling=read_work_rate(catalog, "data.scaling").value,
        busy_w=busy_power_w(machine, catalog, accelerated=False),
        bases=(basis,),
        assumptions=("data processing: the rates of text apply to all kinds of data",),
    )
