"""Jobs that run at night on machines which serve by day: when they start, and what stops meanwhile.

Each target starts them by its own clock: timers of systemd, also for Compose, and a CronJob of Kubernetes.
"""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from archwright.contract.job_window import JobWindow, format_hour
from archwright.contract.record import Record
from archwright.deploy.containers.job_commands import JobCommand, choose_command
from archwright.deploy.deployment import Deployment, PoolDeployment
from archwright.deploy.names import make_label

HOURS_PER_DAY = 24
SECONDS_PER_HOUR = 3600
ALERT_SEVERITIES = ("page", "ticket")

Days = dict[str, list[str]]


class Dates(NamedTuple):
    """The days of a period: a row of night_jobs.yaml, whose head describes the fields."""

    calendar: str
    cron: str
    days: Days
    next_days: Days


@cache
def read_dates() -> dict[str | None, Dates]:
    """Return the days of each period in which a job may run again."""
    rows = yaml.load(Path(__file__).with_suffix(".yaml").read_bytes(), yaml.CSafeLoader)
    dates = dict[str | None, Dates]()
    for period, row in rows.items():
        dates[period] = Dates(**row)
    return dates


class NightJob(Record):
    """A job with its window. `pauses`: the pools whose engines stop for it; `devices`: its accelerators, by index.

    `dates`: the days on which it starts; None for a job that runs once.
    """

    name: str
    window: JobWindow
    dates: Dates | None
    command: JobCommand
    pauses: tuple[PoolDeployment, ...]
    devices: tuple[int, ...]

    @property
    def file(self) -> str:
        return f"archwright-job-{self.name}.service"

    @property
    def limit_s(self) -> int:
        """Time until the window closes, when the job must have ended."""
        return math.floor(self.window.lasts_h * SECONDS_PER_HOUR)

    @property
    def starts_at(self) -> str:
        """The local time of its start, for example 18:00."""
        return format_hour(self.window.starts_h)

    @property
    def calendar(self) -> str:
        """When it starts, for systemd; empty for a job that runs once."""
        if self.dates is None:
            return ""
        return f"{self.dates.calendar} {self.starts_at}:00 {self.window.time_zone}"

    @property
    def cron(self) -> str:
        """When it starts, for cron; empty for a job that runs once."""
        if self.dates is None:
            return ""
        hour, minute = self.starts_at.split(":")
        return f"{int(minute)} {int(hour)} {self.dates.cron}"

    @property
    def reason(self) -> str:
        return self.window.summary

    @property
    def alert_times(self) -> str:
        """The name of its muted times."""
        return f"job-{self.name}"

    @property
    def muted_times(self) -> tuple[dict[str, object], ...]:
        """Times of Alertmanager in which nobody is told that the paused engines are away, with the time to start."""
        if self.dates is None or not self.pauses:
            return ()
        ends_h = self.window.starts_h + self.window.lasts_h + self._engine_start_h
        if ends_h <= HOURS_PER_DAY:
            return (self._mute(self.dates.days, self.starts_at, format_end(ends_h)),)
        evening = self._mute(self.dates.days, self.starts_at, format_end(HOURS_PER_DAY))
        morning = self._mute(self.dates.next_days, "00:00", format_end(ends_h - HOURS_PER_DAY))
        return (evening, morning)

    @property
    def _engine_start_h(self) -> float:
        """Hours until the last paused engine is ready again."""
        longest_s = 0
        for pool in self.pauses:
            longest_s = max(longest_s, pool.ready_limit_s)
        return longest_s / SECONDS_PER_HOUR

    def _mute(self, days: Days, start: str, end: str) -> dict[str, object]:
        hours = {"start_time": start, "end_time": end}
        return {"times": [hours], "location": self.window.time_zone, **days}


class MutedAlerts(NamedTuple):
    """Alerts of a severity about `pools` (separated by "|") that reach nobody at the named `times` of Alertmanager."""

    severity: str
    pools: str
    times: tuple[str, ...]


def mute_alerts(jobs: tuple[NightJob, ...]) -> Iterator[MutedAlerts]:
    """Yield the alerts that mean nothing while engines stop for a job."""
    names = dict[str, None]()
    times = list[str]()
    for job in jobs:
        if job.muted_times:
            times.append(job.alert_times)
            for pool in job.pauses:
                names[pool.name] = None
    if not times:
        return
    for severity in ALERT_SEVERITIES:
        yield MutedAlerts(severity, "|".join(names), tuple(times))


def format_end(hour: float) -> str:
    """Return the end of a range within one day, which may be 24:00."""
    if hour >= HOURS_PER_DAY:
        return "24:00"
    return format_hour(hour)


def list_night_jobs(deployment: Deployment) -> tuple[NightJob, ...]:
    """Return the jobs of the option that wait for the night; a plant's machines have none."""
    if deployment.is_plant:
        return ()
    jobs = list[NightJob]()
    for window in deployment.option.windows:
        job = build_night_job(window, deployment)
        jobs.append(job)
    return tuple(jobs)


def build_night_job(window: JobWindow, deployment: Deployment) -> NightJob:
    workload = next(workload for workload in deployment.plan.workloads if workload.name == window.workload)
    command = choose_command(workload, 1)
    pauses = []
    for pool in deployment.pools:
        if pool.pool.name in window.pauses:
            pauses.append(pool)
    # Engines have the first accelerators of a machine.
    present = count_accelerators(deployment, window.job)
    first = max(0, present - window.accelerators)
    return NightJob(
        name=make_label(window.job),
        window=window,
        dates=read_dates().get(window.every),
        command=command,
        pauses=tuple(pauses),
        devices=tuple(range(first, present)),
    )


def count_accelerators(deployment: Deployment, job: str) -> int:
    """Return the accelerators of a machine of a job."""
    most = 0
    for site in deployment.sites:
        for group in site.machines:
            if job in group.pools:
                most = max(most, group.accelerator_count)
    return most
