"""How many machines a job takes at once, and the hours it pays for."""

from __future__ import annotations

from archwright.contract.plan import Miss
from archwright.plan.demand import HOURS_PER_MONTH, Job
from archwright.plan.models import UNKNOWN
from archwright.plan.purchase import Price, Tranche
from archwright.sizing.machine import Batch

# Assumed: getting a machine, its image and the data takes this long at the start of each run, and is paid for.
START_H = 0.25


def width_for(batch: Batch, job: Job, redone: float = 1.0) -> tuple[int, tuple[Miss, ...]]:
    """The fewest machines that keep the deadline in the busiest month; all that help, with a miss, when none do: the
    network's where nobody states it, for how much more machines help is then not known.
    """
    most = max(job.growth) * redone
    low, high = batch.least, max(batch.least, batch.most)

    def took(machines: int) -> float:
        return batch.hours(machines) * most + START_H

    if took(high) > job.deadline_h:
        name = job.workload.name
        if batch.unstated:
            return high, (Miss(constraint=f"{name}.network", value=UNKNOWN, limit=f"that of {batch.unstated}"),)
        return high, (Miss(constraint=f"{name}.deadline_h", value=took(high), limit=job.deadline_h),)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if took(middle) <= job.deadline_h else (middle + 1, high)
    return low, ()


def machine_hours(batch: Batch, job: Job, machines: int, redone: float = 1.0) -> tuple[float, ...]:
    """Hours of all machines together, month by month."""
    runs = job.runs_per_month * machines
    return tuple(runs * (batch.hours(machines) * growth * redone + START_H) for growth in job.growth)


def run_of(batch: Batch, job: Job, price: Price, redone: float) -> tuple[Tranche, int, tuple[Miss, ...]]:
    machines, misses = width_for(batch, job, redone)
    hours = machine_hours(batch, job, machines, redone)
    machines_on = tuple(hour / HOURS_PER_MONTH for hour in hours)
    paid = tuple(hour * price.usd_per_hour for hour in hours)
    return Tranche(price.kind, machines_on, paid, machines), machines, misses
