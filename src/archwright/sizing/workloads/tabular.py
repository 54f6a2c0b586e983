"""Predicting from a row of features (and forecasting from a window of them): boosted trees on processor cores.

  seconds of a core = request + row (row tabular.row: a call of the engine with one row) + features x (tabular.feature)
Measured with the engine that serves them here; how a request is received costs more than the trees. Devices are not
used: a tree is a chain of look-ups.
"""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates, sum_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO
from archwright.sizing.hardware.device_rates import facts, host_cores, rate
from archwright.sizing.hardware.machine import Machine, Steady
from archwright.sizing.workloads.queueing import Limit, Times, carried
from archwright.sizing.workloads.vision import ENGINE, steady

ROWS = ("tabular.row", "tabular.feature", "request.host", "host.scaling", "tabular.processors")


def row_s(features: int, catalog: Catalog) -> Estimate:
    """Seconds of one core for one row in one request, on a processor that may be another than the measured one."""
    parts = [
        rate(catalog, "tabular.row"),
        rate(catalog, "tabular.feature").scaled(features, unit="s"),
        rate(catalog, "request.host"),
    ]
    slowed = rate(catalog, "host.scaling").dividing(1.0, "")
    return multiply_estimates([sum_estimates(parts, "s"), slowed, rate(catalog, "tabular.processors")], "s")


def steady_tabular(machine: Machine, workload: str, features: int, slo: SLO, catalog: Catalog) -> Steady:
    """What the cores of one machine carry; its devices, if any, stay idle."""
    own = row_s(features, catalog)
    nothing = Estimate(value=0.0, low=0.0, high=0.0, unit="s")
    limit = Limit(f"{workload}.latency_p95_s", slo.latency_p95_s, rate(catalog, "load.most").value)
    found = carried(Times(nothing, own), host_cores(machine), limit, batches=False)
    basis = Basis(
        id=f"{workload}.{machine.id}.capacity",
        kind="measured",
        stratum="measured here, other processors",
        definition="rows a second that one machine takes with the latency's p95 held; p95 from arrival to answer",
        formula="(row + features x feature + request) / scaling a core; wait: sizing/workloads/queueing.py",
        facts=(f"{features} features: {own.value * 1e3:.3g} ms of a core a row", *facts(catalog, *ROWS, "load.most")),
    )
    host = machine._replace(accelerator=None, accelerator_count=0)
    return steady(host, catalog, found, basis, (f"trees-{features}-features", ENGINE))
