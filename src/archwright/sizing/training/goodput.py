"""Goodput: share of a run's machine time spent in steps that are not lost to checkpoints, interruptions or repeats.

With delta seconds to write a checkpoint, M seconds between interruptions of the job and R seconds to restart:
- optimal interval (Daly 2006, higher order; Young 1974 is its first term):
  tau = sqrt(2 delta M) (1 + sqrt(delta / 2M) / 3 + (delta / 2M) / 9) - delta
- lost share = delta / tau + (tau / 2 + R) / M;  goodput = stages / (1 + lost)
M = year / (devices x failures per device and year x interruptions per failure).
"""

import math
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.sizing.hardware.device_rates import quote_work_rates, read_work_rate

YEAR_S = 365.25 * 86400.0
FORMULA = "stages / (1 + delta / tau + (tau / 2 + R) / M); tau by Daly, M = year / (devices x failures x interruptions)"
# Lower bound: a job that is interrupted while it writes its checkpoints never ends.
LEAST_GOODPUT = 0.05


class Goodput(NamedTuple):
    share: Estimate
    checkpoint_s: Estimate
    interval_s: Estimate
    between_failures_s: Estimate
    facts: tuple[str, ...]


def optimal_checkpoint_interval(delta: float, between: float) -> float:
    """Return the seconds between two checkpoints that minimise the lost share; at least `delta`."""
    if delta >= 2 * between:
        return delta
    ratio = delta / (2 * between)
    return max(math.sqrt(2 * delta * between) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - delta, delta)


def useful_share(delta: float, between: float, restart: float) -> float:
    tau = optimal_checkpoint_interval(delta, between)
    return 1 / (1 + delta / tau + (tau / 2 + restart) / between)


class GoodputJob(NamedTuple):
    """Job on `devices` accelerators of `machines` machines that write in parallel; `stages`: work rate of its kind."""

    checkpoint_bytes: float
    devices: int
    machines: int
    stages: str


def predict_goodput(job: GoodputJob, catalog: Catalog) -> Goodput:
    failures, interruptions = catalog.parameter("failures.gpu"), read_work_rate(catalog, "training.interruptions")
    broken = multiply_estimates([failures, interruptions], "1/year")
    between = broken.scaled(job.devices).divide_amount(YEAR_S, "s")
    delta = read_work_rate(catalog, "training.checkpoint").scaled(job.machines).divide_amount(job.checkpoint_bytes, "s")
    restart, stages = read_work_rate(catalog, "training.restart"), read_work_rate(catalog, job.stages)
    running = Estimate(
        value=useful_share(delta.value, between.value, restart.value),
        low=useful_share(delta.high, between.low, restart.high),
        high=useful_share(delta.low, between.high, restart.low),
        unit="",
    )
    share = multiply_estimates([running, stages], "")
    bounded = Estimate(
        value=max(share.value, LEAST_GOODPUT),
        low=max(share.low, LEAST_GOODPUT / 2),
        high=min(max(share.high, LEAST_GOODPUT), 1.0),
        unit="",
    )
    ends = ((delta.value, between.value), (delta.low, between.low), (delta.high, between.high))
    tau, low, high = (optimal_checkpoint_interval(*end) for end in ends)
    interval = Estimate(value=tau, low=low, high=high, unit="s")
    named = ("training.interruptions", "training.restart", "training.checkpoint", job.stages)
    row = catalog.parts["failures.gpu"]
    failed = f"{row.item}: {row.typical:g} [{row.low:g}, {row.high:g}] {row.unit} ({row.source}, {row.as_of})"
    return Goodput(bounded, delta, interval, between, (failed, *quote_work_rates(catalog, *named)))
