"""What the runs of a job pay: list prices, or a commitment where the job runs most of the time."""

from __future__ import annotations

import pytest

from archwright.contract.estimate import exact_estimate
from archwright.contract.needs import Workload
from archwright.plan.capacity.machine_count import RUN_START_H, commit_job_runs, price_job_runs
from archwright.plan.capacity.purchase_options import HourlyPrice
from archwright.plan.demand.forecast import BatchJob
from archwright.sizing.hardware.machine import BatchWork

LISTED, YEAR = HourlyPrice("on-demand", 10.0), HourlyPrice("commit-1y", 6.0)


def runs(hours: float, months: int = 24) -> tuple[BatchWork, BatchJob]:
    """One run a month on one machine, for so many hours."""
    work = BatchWork("m", exact_estimate(hours, "h"), 1, 1, 1.0, 500.0, ())
    workload = Workload(name="tune", kind="finetune")
    return work, BatchJob(workload, 1e9, 1.0, 720.0, (1.0,) * months)


@pytest.mark.parametrize(
    ("hours", "months", "kind", "usd"),
    [
        (100.0, 24, "on-demand", 24 * (100 + RUN_START_H) * 10),  # seldom
        (600.0, 24, "commit-1y", 24 * 730 * 6),  # most of the time: paid for all hours
        (600.0, 11, "on-demand", 11 * (600 + RUN_START_H) * 10),  # no commitment fits into the horizon
    ],
)
def test_a_job_is_committed_where_that_costs_less_than_its_hours(
    hours: float, months: int, kind: str, usd: float
) -> None:
    work, job = runs(hours, months)
    listed = price_job_runs(work, job, LISTED, 1.0)
    found = commit_job_runs(listed, work, job, (LISTED, YEAR))
    assert [tranche.kind for tranche in found.tranches] == [kind]
    assert found.sum == pytest.approx(usd) and found.sum <= listed.sum
    assert found.machines == listed.machines == 1


def test_runs_that_overlap_stay_at_list_prices() -> None:
    work, job = runs(600.0)
    often = job._replace(runs_per_month=2.0)
    listed = price_job_runs(work, often, LISTED, 1.0)
    assert commit_job_runs(listed, work, often, (LISTED, YEAR)) is listed
