"""Machine count: machines for a load, machines for one run of a job, and paid hours."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from archwright.contract.plan import assess_limit
from archwright.plan.capacity.availability import count_spares
from archwright.plan.capacity.purchase_options import HourlyPrice, PurchaseTranche, RunningHours, select_purchase_mix
from archwright.plan.demand.forecast import HOURS_PER_MONTH, BatchJob, Demand
from archwright.plan.demand.model_selection import UNKNOWN
from archwright.plan.violations import Limits, Misses, build_violation
from archwright.sizing.hardware.machine import BatchWork

# Assumed: each run first starts machines and loads image and data for this long, and pays for it.
RUN_START_H = 0.25
# Rounding error of a whole number in a solution.
ROUNDING = 1e-6


def count_job_machines(batch: BatchWork, job: BatchJob, redone: float = 1.0) -> tuple[int, Misses]:
    """Return the fewest machines for the deadline in the busiest month, else the most useful and a violation.

    The deadline holds with the certainty of the workload, as far as at most the square of the slower speed's machines
    help; further machines hardly do.
    """
    most = max(job.growth) * redone
    high = max(batch.least, batch.most)
    slower = batch.machine_hours.quantile(job.workload.slo.certainty) / batch.machine_hours.value

    def took(machines: int, slower: float = 1.0) -> float:
        return batch.hours(machines) * most * slower + RUN_START_H

    def count_within(high: int, slower: float) -> int:
        low = batch.least
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if took(middle, slower) <= job.deadline_h else (middle + 1, high)
        return low

    if took(high) > job.deadline_h:
        name = job.workload.name
        unknown = build_violation(f"{name}.network", UNKNOWN, f"that of {batch.unstated}")
        return high, (unknown if batch.unstated else build_violation(f"{name}.deadline_h", took(high), job.deadline_h),)
    return count_within(min(high, math.ceil(count_within(high, 1.0) * slower * slower)), slower), ()


def compute_longest_run_h(batch: BatchWork, job: BatchJob, machines: int) -> float:
    """Return the hours of a run in the busiest month, with its start, at the certainty of the workload."""
    slower = batch.machine_hours.quantile(job.workload.slo.certainty) / batch.machine_hours.value
    return batch.hours(machines) * max(job.growth) * slower + RUN_START_H


def assess_deadline(batch: BatchWork, job: BatchJob, machines: int) -> Limits:
    """Return the deadline of a run in the busiest month with its probability."""
    share = batch.hours(machines) * max(job.growth) / batch.machine_hours.value
    hours, name = batch.machine_hours.scaled(share), f"{job.workload.name}.deadline_h"
    return (assess_limit((name, job.deadline_h - RUN_START_H, job.workload.slo.certainty), hours),)


def compute_machine_hours(batch: BatchWork, job: BatchJob, machines: int, redone: float = 1.0) -> tuple[float, ...]:
    runs = job.runs_per_month * machines
    run_hours = batch.hours(machines)
    return tuple(runs * (run_hours * growth * redone + RUN_START_H) for growth in job.growth)


class JobPurchase(NamedTuple):
    """The machines of a job's runs on one or several terms, the machines of one run, and broken limits."""

    tranches: tuple[PurchaseTranche, ...]
    machines: int
    misses: Misses

    @property
    def sum(self) -> float:
        return sum(tranche.sum for tranche in self.tranches)


def price_job_runs(batch: BatchWork, job: BatchJob, price: HourlyPrice, redone: float) -> JobPurchase:
    machines, misses = count_job_machines(batch, job, redone)
    hours = compute_machine_hours(batch, job, machines, redone)
    machines_on = tuple(hour / HOURS_PER_MONTH for hour in hours)
    paid = tuple(hour * price.usd_per_hour for hour in hours)
    return JobPurchase((PurchaseTranche(price.kind, machines_on, paid, machines),), machines, misses)


def commit_job_runs(listed: JobPurchase, batch: BatchWork, job: BatchJob, prices: Sequence[HourlyPrice]) -> JobPurchase:
    """Return the runs on commitments where a job runs so much of the time that they cost less than list prices."""
    each = [hour / listed.machines for hour in compute_machine_hours(batch, job, listed.machines)]
    if max(each) > HOURS_PER_MONTH:
        return listed  # runs overlap
    months = [RunningHours((hour, HOURS_PER_MONTH - hour), (listed.machines, 0)) for hour in each]
    found = listed._replace(tranches=select_purchase_mix(months, prices))
    return found if found.sum < listed.sum * (1 - ROUNDING) else listed


def compute_running_hours(demand: Demand, capacity: float) -> tuple[RunningHours, ...]:
    """Return the machines for every month and load level, spares included."""
    hours, counts = tuple(level.hours for level in demand.levels), dict[tuple[float, ...], tuple[int, ...]]()
    months = [demand.rates(month) for month in range(len(demand.growth))]
    for rates in months:
        if rates not in counts:
            target = demand.workload.slo.availability
            needed = [count_machines(rate, capacity) if is_serving(demand, rate) else 0 for rate in rates]
            counts[rates] = tuple(n + count_spares(n, target) if n else 0 for n in needed)
    return tuple(RunningHours(hours, counts[rates]) for rates in months)


def is_serving(demand: Demand, rate: float) -> bool:
    """True if machines run at this rate: always, unless the load pauses or other machines serve all of it."""
    return rate > 0 or not (demand.elsewhere or demand.pauses)


def count_peak_machines(demand: Demand, capacity: float) -> list[tuple[int, int]]:
    """Return machines and spares at the peak of every month, in descending order."""
    target = demand.workload.slo.availability
    found = {count_machines(max(demand.rates(month)), capacity) for month in range(len(demand.growth))}
    return [(n, count_spares(n, target)) for n in sorted(found, reverse=True)]


def count_machines(rate: float, capacity: float) -> int:
    return max(1, math.ceil(rate / capacity - ROUNDING))


def compute_mean_machines(demand: Demand, capacity: float) -> float:
    """Return the mean number of running machines over the horizon, spares included."""
    months = compute_running_hours(demand, capacity)
    means = (sum(h * n for h, n in zip(one.hours, one.counts, strict=True)) / sum(one.hours) for one in months)
    return sum(means) / len(months)
