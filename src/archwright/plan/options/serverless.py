"""Machines paid by the second: workers that come with the requests and go when there are none.

Requests come at random, r a second. A worker stays for a request's time and then idle, together s, unless another
comes. Between two starts from nothing lie the start itself (b), the time until no request came for s, which is
(exp(r s) - 1) / r on average, and the wait for the next request, 1 / r. So starts come at the rate
    q = r e / (1 + r b e),    e = exp(-r s),
a worker is paid for 1 - q / r of the time, and q (1 + r b) / r of the requests wait for a start: the one that caused it
and those that come meanwhile. Workers paid for are the larger of that share and r over what one carries. Where more
than one request in twenty waits, the 95th percentile of the time to the first token is a start's.

Where that breaks a limit, a worker is kept warm: it stays idle for longer, just so long that one request in twenty
waits, c. From q (1 + r b) / r = c follows
    q / r = c / (1 + r b),    e^(r s) = (1 + r b (1 - c)) / c,
so a worker is paid for at least 1 - c of the time, and for more the more requests come. A limit holds in every part of
the day, not on average over days: who asks at night has the promise too, and a busier day never makes a quiet night
cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.catalog.tables.serverless_prices import ServerlessPrice, read_serverless_prices
from archwright.contract.estimate import Estimate
from archwright.contract.needs import SLO, TEXT_KINDS
from archwright.plan.accounting.budget import AT_RISK, USD, OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import CandidateMachine, ModelOptions, WorkloadTask
from archwright.plan.capacity.machine_count import compute_machine_hours, count_job_machines, count_machines
from archwright.plan.capacity.purchase_options import PurchaseTranche
from archwright.plan.capacity.service_levels import (
    UnverifiedLevel,
    check_unverified_availability,
    describe_latency_risk,
)
from archwright.plan.demand.data_residency import (
    collect_all_bounds,
    collect_bounds,
    format_bounds,
    is_region_inside,
    rank_proximity,
)
from archwright.plan.demand.forecast import HOURS_PER_MONTH, Demand
from archwright.plan.options.cloud_instances import InstanceChoice
from archwright.plan.options.edge_sites import make_sites_miss, runs_at_sites
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.hardware.machine import Machine, SteadyCapacity

SECONDS_PER_HOUR = 3600.0
# Of a worker beside its accelerator, assumed: what such machines have.
WORKER_CORES, WORKER_RAM_BYTES = 8, 64e9
MAX_COLD_SHARE = 0.05


class ServerlessWorker(NamedTuple):
    row: ServerlessPrice
    host: CandidateMachine


class WorkerUsage(NamedTuple):
    """What a task takes: workers on average, month by month, at most `peak`; the shares of requests that start cold,
    of all and where they are the most; and the longest that a worker is kept idle.
    """

    workers: tuple[float, ...]
    peak: int
    cold: float
    coldest: float
    idle_s: float = 0.0


class ServerlessPlanner:
    def __init__(self, world: PlanningContext, ledger: PlanProvenance, tasks: tuple[WorkloadTask, ...]) -> None:
        self._world, self._ledger, self._tasks = world, ledger, tasks

    def options(self) -> Iterable[BuiltOption]:
        providers = sorted({row.provider for row in read_serverless_prices()})
        named = self._world.needs.placement.clouds
        for provider in [name for name in providers if named is None or name in named] or providers:
            yield self._build_option(provider)

    def _build_option(self, provider: str) -> BuiltOption:
        draft = OptionDraft(f"serverless-{provider}", "serverless", provider)
        where = self._choose_region(provider)
        if where is None:
            limit = format_bounds(collect_all_bounds(self._world.needs))
            miss = build_violation("residency", "no offer inside", limit)
            return self._world.assembler.build(draft._replace(misses=(miss,)), OptionPart(), (), whole=False)
        parts, models = list[OptionPart](), dict[str, ModelOptions]()
        for task in self._tasks:
            found = models.get(task.follows, ()) if task.follows is not None else task.models
            part, model = self._choose_worker(task, found, self._list_workers(provider, where))
            models[task.name] = (model,)
            parts.append(part)
        sites = tuple(make_sites_miss(task, "a provider's region") for task in self._tasks if runs_at_sites(task))
        part = join_parts(parts)
        draft = draft._replace(regions=(where.region,), misses=sites)
        return self._world.assembler.build(draft, part, (where,), whole=all(one.terms for one in parts))

    def _choose_region(self, provider: str) -> Location | None:
        """The nearest region where all data may be; a worker costs the same in each."""
        catalog, bounds = self._world.catalog, collect_all_bounds(self._world.needs)
        bounds += tuple(b for task in self._tasks for b in collect_bounds(self._world.needs, task.workload))
        regions = [row for row in catalog.regions.values() if row.provider == provider]
        inside = [row for row in regions if is_region_inside(catalog, bounds, provider, row.region)]
        if not inside:
            return None
        nearest = min(inside, key=lambda row: (rank_proximity(self._world.needs, catalog, row.country), row.region))
        return Location("serverless", provider, nearest.region, nearest.country)

    def _list_workers(self, provider: str, where: Location) -> tuple[ServerlessWorker, ...]:
        pins, catalog = self._world.needs.placement.accelerators, self._world.catalog
        allowed = None if pins is None else catalog.accelerator_ids(pins)
        found = []
        for row in read_serverless_prices():
            device = catalog.accelerators.get(row.accelerator)
            if row.provider == provider and device is not None and (allowed is None or device.id in allowed):
                machine = Machine(f"worker-{row.accelerator}", device, 1, WORKER_CORES, WORKER_RAM_BYTES)
                found.append(ServerlessWorker(row, CandidateMachine(where, machine)))
        return tuple(found)

    def _choose_worker(
        self, task: WorkloadTask, models: ModelOptions, workers: tuple[ServerlessWorker, ...]
    ) -> tuple[OptionPart, ModelSpec | None]:
        """The cheapest worker and model that break the fewest limits."""
        found = [way for worker in workers for model in models for way in self._list_choices(task, model, worker)]
        if not found:
            wanted = next((model.id for model in models if model is not None), task.workload.kind)
            miss = build_violation(f"{task.name}.model", wanted, "one accelerator that holds it")
            return OptionPart(misses=task.misses or (miss,)), None
        pick, worker, bill = min(found, key=lambda way: (len(way[0].misses), way[0].usd, way[1].row.accelerator))
        return self._write_part(task, pick, worker, bill), pick.model

    def _list_choices(
        self, task: WorkloadTask, model: ModelSpec | None, worker: ServerlessWorker
    ) -> Iterable[tuple[InstanceChoice, ServerlessWorker, WorkerUsage]]:
        sizer, machine = self._world.sizer, worker.host.machine
        steady = sizer.steady(task.demand, model, worker.host) if task.demand is not None else None
        batch = sizer.batch(task.job, model, machine) if task.job is not None else None
        misses: Misses = ()
        if task.demand is not None and steady is not None and steady.requests_per_s.value > 0:
            bill = estimate_worker_usage(task.demand, steady, worker.row)
            if bill.coldest > MAX_COLD_SHARE and breaks_latency_limit(task.workload.slo, steady, worker.row):
                bill = estimate_worker_usage(task.demand, steady, worker.row, warm=True)
            misses = steady.misses
        elif task.job is not None and batch is not None:
            width, late = count_job_machines(batch, task.job)
            hours = compute_machine_hours(batch, task.job, width)
            bill = WorkerUsage(tuple(hour / HOURS_PER_MONTH for hour in hours), width, 0.0, 0.0)
            misses = (*batch.misses, *late)
        else:
            return
        usd = tuple(count * HOURS_PER_MONTH * SECONDS_PER_HOUR * worker.row.usd_per_second for count in bill.workers)
        tranche = PurchaseTranche("per-second", bill.workers, usd, bill.peak)
        yield InstanceChoice(task, worker.host, model, steady, batch, (tranche,), bill.peak, 0, misses), worker, bill

    def _write_part(
        self, task: WorkloadTask, pick: InstanceChoice, worker: ServerlessWorker, bill: WorkerUsage
    ) -> OptionPart:
        row, writer = worker.row, self._world.writer
        basis = self._ledger.create_basis(
            f"price.second.{row.provider}.{row.accelerator}".lower(),
            "quoted",
            "price of one worker for a second",
            facts=(f"{row.provider} {row.accelerator}: {row.usd_per_second:g} USD/s, {row.source}, {row.as_of}",),
        )
        price = self._world.catalog.estimate(row, row.usd_per_second, f"{USD}/s", basis)
        drivers = (self._ledger.register_driver(price), writer.register_machine_count(pick))
        line = f"{task.name}: seconds of {row.accelerator} in {worker.host.where.region}"
        made = writer.write_unpriced(pick)
        down = UnverifiedLevel()
        if task.demand is not None:
            down = check_unverified_availability(task.workload, row.provider, self._world.catalog)
        paid = CashFlow(line, "compute", pick.tranches[0].usd, drivers, machines_of=(task.workload.name,))
        notes = (*made.notes, *down.notes, *_describe_cold_starts(pick, row, bill))
        return made._replace(terms=(paid,), misses=(*made.misses, *down.misses), notes=notes)


def estimate_worker_usage(
    demand: Demand, steady: SteadyCapacity, row: ServerlessPrice, *, warm: bool = False
) -> WorkerUsage:
    """Workers paid for, month by month; `warm`: idle for so long that few requests start cold."""
    carried, workers, idle = steady.requests_per_s.value, list[float](), row.idle_s
    waiting, requests, coldest = 0.0, 0.0, 0.0
    for growth in demand.growth:
        month = 0.0
        for level in demand.levels:
            if level.hours <= 0:
                continue
            rate, took = level.rate * growth, steady.latency_p95_s.value
            idle_s = max(row.idle_s, compute_warm_idle_s(rate, row.start_s) - took) if warm else row.idle_s
            gone = compute_cold_start_share(rate, row.start_s, took + idle_s)
            cold = gone * (1 + rate * row.start_s)
            month += level.hours * max(1 - gone, rate / carried)
            waiting += level.hours * rate * cold
            requests += level.hours * rate
            coldest, idle = max(coldest, cold), max(idle, idle_s)
        workers.append(month / HOURS_PER_MONTH)
    peak = count_machines(demand.peak_at_horizon, carried)
    return WorkerUsage(tuple(workers), peak, min(1.0, waiting / requests), min(1.0, coldest), idle)


def compute_cold_start_share(rate: float, start_s: float, stay_s: float) -> float:
    """q / r: the share of requests that a worker is started for, which is also that of the time when none is paid."""
    empty = math.exp(-rate * stay_s)
    return empty / (1 + rate * start_s * empty)


def compute_warm_idle_s(rate: float, start_s: float) -> float:
    """How long a worker must stay after a request comes, for one in twenty to wait for a start."""
    return math.log((1 + rate * start_s * (1 - MAX_COLD_SHARE)) / MAX_COLD_SHARE) / rate


def breaks_latency_limit(slo: SLO, steady: SteadyCapacity, row: ServerlessPrice) -> bool:
    return any(row.start_s + warm > limit for _, limit, warm in _list_start_limits(slo, steady))


def _list_start_limits(slo: SLO, steady: SteadyCapacity) -> Iterable[tuple[str, float, float]]:
    """The limits that a start counts against, and what comes on top of it."""
    if slo.ttft_p95_s is not None and isinstance(steady.ttft_p95_s, Estimate):
        yield "ttft_p95_s", slo.ttft_p95_s, steady.ttft_p95_s.value
    if slo.latency_p95_s is not None:
        yield "latency_p95_s", slo.latency_p95_s, steady.latency_p95_s.value


def _describe_cold_starts(pick: InstanceChoice, row: ServerlessPrice, bill: WorkerUsage) -> Iterable[str]:
    if pick.steady is None:
        return
    start, name = f"{row.start_s:.0f} s ({row.start_s_low:.0f} .. {row.start_s_high:.0f})", pick.task.name
    yield f"{name}: {bill.cold:.1%} of requests wait for a cold start of about {start}"
    if bill.idle_s > row.idle_s:
        yield (
            f"{name}: kept warm: where requests are rarest a worker stays idle for {bill.idle_s:.3g} s "
            f"(default {row.idle_s:g}), so that at most {MAX_COLD_SHARE:.0%} of them start cold in any part of the day"
        )
    if pick.task.workload.kind not in TEXT_KINDS:
        yield from describe_latency_risk(pick.task.workload, pick.steady.latency_p95_s, row.start_s_high, row.provider)
    elif bill.coldest > MAX_COLD_SHARE and bill.idle_s <= row.idle_s:
        for field, limit, warm in _list_start_limits(pick.task.workload.slo, pick.steady):
            if limit < row.start_s_high + warm:
                yield f"{AT_RISK}{name}.{field} limit {limit:g} lies inside the band of a cold start"
