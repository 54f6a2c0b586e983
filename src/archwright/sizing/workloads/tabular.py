"""Predicting from a row of features (and forecasting from a window of them): boosted trees on processor cores.

  seconds of a core = request + row (row tabular.row: a call of the engine with one row) + features x (tabular.feature)
Measured with the engine that serves them here; how a request is received costs more than the trees. Devices are not
used: a tree is a chain of look-ups.
"""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate, multiply_estimates, sum_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO
from archwright.sizing.hardware.device_rates import host_cores, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.workloads.queueing import ServiceLimit, ServiceTimes, find_capacity
from archwright.sizing.workloads.vision import ENGINE, build_steady_capacity

RATE_NAMES = ("tabular.row", "tabular.feature", "request.host", "host.scaling", "tabular.processors")


def row_service_s(features: int, catalog: Catalog) -> Estimate:
    """Seconds of one core for one row in one request, on a processor that may be another than the measured one."""
    row, feature, request, scaling, processors = (read_work_rate(catalog, name) for name in RATE_NAMES)
    each = sum_estimates([row, feature.scaled(features, unit="s"), request], "s")
    return multiply_estimates([each, scaling.divide_amount(1.0, ""), processors], "s")


def size_tabular_serving(machine: Machine, workload: str, features: int, slo: SLO, catalog: Catalog) -> SteadyCapacity:
    """What the cores of one machine carry; its devices, if any, stay idle."""
    own, nothing = row_service_s(features, catalog), exact_estimate(0.0, "s")
    limit = ServiceLimit(f"{workload}.latency_p95_s", slo.latency_p95_s, read_work_rate(catalog, "load.most").value)
    found = find_capacity(ServiceTimes(nothing, own), host_cores(machine), limit, batches=False)
    basis = Basis(
        id=f"{workload}.{machine.id}.capacity",
        kind="measured",
        stratum="measured here, other processors",
        definition="rows a second that one machine takes with the latency's p95 held; p95 from arrival to answer",
        formula="(row + features x feature + request) / scaling a core; wait: sizing/workloads/queueing.py",
        facts=(
            f"{features} features: {own.value * 1e3:.3g} ms of a core a row",
            *quote_work_rates(catalog, *RATE_NAMES, "load.most"),
        ),
    )
    host = machine._replace(accelerator=None, accelerator_count=0)
    return build_steady_capacity(host, catalog, found, basis, (f"trees-{features}-features", ENGINE))
