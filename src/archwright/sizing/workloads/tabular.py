"""Capacity of tabular prediction and forecasting: boosted trees on CPU cores.

  core-seconds per row = request + row (work rate tabular.row: one engine call) + features x tabular.feature
Measured with the project's own serving engine; receiving a request costs more than the trees. Accelerators are not
used, because tree evaluation is a chain of dependent memory reads.
"""

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
    """Return the core-seconds of a request with one row; the band covers other processors than the measured one."""
    row, feature, request, scaling, processors = (read_work_rate(catalog, name) for name in RATE_NAMES)
    each = sum_estimates([row, feature.scaled(features, unit="s"), request], "s")
    return multiply_estimates([each, scaling.divide_amount(1.0, ""), processors], "s")


def size_tabular_serving(machine: Machine, workload: str, features: int, slo: SLO, catalog: Catalog) -> SteadyCapacity:
    """Size one machine by its CPU cores; its accelerators stay idle."""
    own, nothing = row_service_s(features, catalog), exact_estimate(0.0, "s")
    most = read_work_rate(catalog, "load.most").value
    limit = ServiceLimit(f"{workload}.latency_p95_s", slo.latency_p95_s, most, slo.certainty)
    found = find_capacity(ServiceTimes(nothing, own), host_cores(machine), limit, batches=False)
    basis = Basis(
        id=f"{workload}.{machine.id}.capacity",
        kind="measured",
        stratum="measured here, other processors",
        definition="highest rows/s of one machine within the p95 latency limit; latency from arrival to response",
        formula="(row + features x feature + request) / scaling per core; wait: sizing/workloads/queueing.py",
        facts=(
            f"{features} features: {own.value * 1e3:.3g} ms of one core per row",
            *quote_work_rates(catalog, *RATE_NAMES, "load.most"),
        ),
    )
    host = machine._replace(accelerator=None, accelerator_count=0)
    return build_steady_capacity(host, catalog, found, basis, (f"trees-{features}-features", ENGINE))
