"""Serverless options: workers that start with requests, stop without requests, and are paid per second.

Requests arrive at random, r per second. A worker stays for the time of a request plus an idle time, together s, unless
another request arrives. One cycle between two cold starts consists of the start (b), the time until no request arrives
for s, with mean (exp(r s) - 1) / r, and the wait for the next request, 1 / r. The rate of cold starts is therefore
    q = r e / (1 + r b e),    e = exp(-r s).
A worker is paid for 1 - q / r of the time. A share q (1 + r b) / r of the requests waits for a start: the request that
causes it and those that arrive during it. The paid workers are the maximum of that share and r / capacity of a worker.
If more than 5 % of requests wait, the 95th percentile of the time to first token includes a cold start.

If that breaks a limit, a worker is kept warm: its idle time is extended until a share c = 5 % of requests waits. From
q (1 + r b) / r = c follows
    q / r = c / (1 + r b),    e^(r s) = (1 + r b (1 - c)) / c,
so a worker is paid for at least 1 - c of the time, and for more with more requests.
Design: a limit holds at every load level, not on average over the day, so a busier day never makes the night cheaper.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.catalog.tables.serverless_prices import ServerlessPrice, read_serverless_prices
from archwright.contract.estimate import Estimate
from archwright.contract.needs import SLO, TEXT_KINDS
from archwright.contract.number_format import (
    format_duration,
    format_exact,
    format_number,
    format_quantity,
    format_share,
)
from archwright.contract.plan import LimitProbability, assess_limit
from archwright.plan.accounting.budget import USD, OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import CandidateMachine, ModelOptions, WorkloadTask
from archwright.plan.capacity.machine_count import compute_machine_hours, count_job_machines, count_machines
from archwright.plan.capacity.purchase_options import PurchaseTranche
from archwright.plan.capacity.service_levels import CheckedLevel, assess_cold_latency, check_unverified_availability
from archwright.plan.demand import data_residency as residency
from archwright.plan.demand.forecast import HOURS_PER_MONTH, SECONDS_PER_HOUR, Demand, load_driver
from archwright.plan.options.cloud_instances import InstanceChoice
from archwright.plan.options.edge_sites import make_sites_miss
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity

# Assumed: host cores and memory of a worker.
WORKER_CORES, WORKER_RAM_BYTES = 8, 64e9
MAX_COLD_SHARE = 0.05


# The price of a worker, and its machine.
ServerlessWorker = tuple[ServerlessPrice, CandidateMachine]


class WorkerUsage(NamedTuple):
    """Paid workers of a task: mean per month, and `peak`.

    `cold`: share of requests that wait for a cold start; `coldest`: the same at the worst load level; `idle_s`: the
    longest idle time of a worker.
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
            limit = residency.format_bounds(residency.collect_all_bounds(self._world.needs))
            return self._world.assembler.refuse(draft, build_violation("residency", "no offer inside", limit))
        parts, models = list[OptionPart](), dict[str, ModelOptions]()
        for task in self._tasks:
            found = models.get(task.follows, ()) if task.follows is not None else task.models
            part, model = self._choose_worker(task, found, self._list_workers(provider, where))
            models[task.name] = (model,)
            parts.append(part)
        sites = tuple(make_sites_miss(task, "a provider's region") for task in self._tasks if task.workload.sites)
        draft, whole = draft._replace(regions=(where.region,), misses=sites), all(one.terms for one in parts)
        return self._world.assembler.build(draft, join_parts(parts), (where,), whole=whole)

    def _choose_region(self, provider: str) -> Location | None:
        """Return the nearest region where all data may be; prices are equal in all regions."""
        needs, catalog = self._world.needs, self._world.catalog
        bounds = residency.collect_all_bounds(needs)
        regions = [row for row in catalog.regions.values() if row.provider == provider]
        inside = [row for row in regions if residency.is_region_inside(catalog, bounds, provider, row.region)]
        if not inside:
            return None
        nearest = min(inside, key=lambda row: (residency.rank_proximity(needs, catalog, row.country), row.region))
        return Location("serverless", provider, nearest.region, nearest.country)

    def _list_workers(self, provider: str, where: Location) -> tuple[ServerlessWorker, ...]:
        pins, catalog = self._world.needs.placement.accelerators, self._world.catalog
        allowed = None if pins is None else catalog.accelerator_ids(pins)
        found = []
        for row in read_serverless_prices():
            device = catalog.accelerators.get(row.accelerator)
            if row.provider == provider and device is not None and (allowed is None or device.id in allowed):
                machine = Machine(f"worker-{row.accelerator}", device, 1, WORKER_CORES, WORKER_RAM_BYTES)
                found.append((row, CandidateMachine(where, machine)))
        return tuple(found)

    def price_models(self, provider: str, task: WorkloadTask) -> dict[str, float]:
        """Return the cost in USD over the horizon by each model that keeps all limits."""
        where, found = self._choose_region(provider), dict[str, float]()
        for worker in self._list_workers(provider, where) if where is not None else ():
            for pick, _, _ in self._list_choices(task, (*task.models, *task.alternatives), worker):
                if pick.model is not None and not pick.misses:
                    found[pick.model.id] = min(pick.usd, found.get(pick.model.id, pick.usd))
        return found

    def _choose_worker(
        self, task: WorkloadTask, models: ModelOptions, workers: tuple[ServerlessWorker, ...]
    ) -> tuple[OptionPart, ModelSpec | None]:
        """Choose the cheapest worker and model with the fewest broken limits."""
        found = [choice for worker in workers for choice in self._list_choices(task, models, worker)]
        if not found:
            wanted = next((model.id for model in models if model is not None), task.workload.kind)
            miss = build_violation(f"{task.name}.model", wanted, "one accelerator that holds it")
            return OptionPart(misses=task.misses or (miss,)), None
        pick, worker, usage = min(found, key=lambda one: (one[0].weakness, one[0].usd, one[1][0].accelerator))
        return self._write_part(task, pick, worker, usage), pick.model

    def _list_choices(
        self, task: WorkloadTask, models: ModelOptions, worker: ServerlessWorker
    ) -> Iterable[tuple[InstanceChoice, ServerlessWorker, WorkerUsage]]:
        sizer, (row, host) = self._world.sizer, worker
        found = list[tuple[tuple[ModelSpec | None, SteadyCapacity | None, BatchWork | None], WorkerUsage, Misses]]()
        for demand, model, steady in sizer.list_steady(task, models, host):
            usage = estimate_worker_usage(demand, steady, row)
            breaks = any(row.start_s + warm > limit for _, limit, warm in _list_start_limits(task.workload.slo, steady))
            if usage.coldest > MAX_COLD_SHARE and breaks:
                usage = estimate_worker_usage(demand, steady, row, warm=True)
            found.append(((model, steady, None), usage, steady.misses))
        for job, model, batch in sizer.list_batch(task, models, host):
            width, late = count_job_machines(batch, job)
            hours = compute_machine_hours(batch, job, width)
            usage = WorkerUsage(tuple(hour / HOURS_PER_MONTH for hour in hours), width, 0.0, 0.0)
            found.append(((model, None, batch), usage, (*batch.misses, *late)))
        for sized, usage, misses in found:
            usd = tuple(count * HOURS_PER_MONTH * SECONDS_PER_HOUR * row.usd_per_second for count in usage.workers)
            tranche = PurchaseTranche("per-second", usage.workers, usd, usage.peak)
            yield InstanceChoice(task, host, *sized, (tranche,), usage.peak, 0, misses), worker, usage

    def _write_part(
        self, task: WorkloadTask, pick: InstanceChoice, worker: ServerlessWorker, usage: WorkerUsage
    ) -> OptionPart:
        (row, host), writer = worker, self._world.writer
        price = self._ledger.create_driver(
            self._world.catalog.estimate(row, row.usd_per_second, f"{USD}/s"),
            f"price.second.{row.provider}.{row.accelerator}".lower(),
            "quoted",
            "price per second of one worker",
            facts=(
                f"{row.provider} {row.accelerator}: {format_exact(row.usd_per_second)} USD/s, {row.source}, "
                f"{row.as_of}",
            ),
        )
        load = self._ledger.select_drivers(load_driver(task.workload.name))
        drivers = (price.basis, *load, writer.register_machine_count(pick))
        line = f"{task.name}: seconds of {row.accelerator} in {host.where.region}"
        part = writer.write_unpriced(pick)
        level = CheckedLevel()
        if task.demand is not None:
            level = check_unverified_availability(task.workload, row.provider, self._world.catalog)
        paid = CashFlow(line, "compute", pick.tranches[0].usd, drivers, machines_of=(task.workload.name,))
        notes = (*part.notes, *level.notes, *_describe_cold_starts(pick, row, usage))
        cold = {one.limit: one for one in _assess_cold_starts(pick, row, usage)}
        limits = (*(one for one in part.limits if one.limit not in cold), *cold.values(), *level.limits)
        return part._replace(terms=(paid,), misses=(*part.misses, *level.misses), notes=notes, limits=limits)


def estimate_worker_usage(
    demand: Demand, steady: SteadyCapacity, row: ServerlessPrice, *, warm: bool = False
) -> WorkerUsage:
    """Estimate paid workers per month; `warm`: extend the idle time until MAX_COLD_SHARE of requests start cold."""
    carried, workers, idle = steady.requests_per_s.value, list[float](), row.idle_s
    waiting, requests, coldest = 0.0, 0.0, 0.0
    for growth in demand.growth:
        month = 0.0
        for level in demand.levels:
            if level.hours <= 0 or level.rate <= 0:
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
    """Return q / r: the share of requests that start a worker, and the share of time without a paid worker."""
    empty = math.exp(-rate * stay_s)
    return empty / (1 + rate * start_s * empty)


def compute_warm_idle_s(rate: float, start_s: float) -> float:
    """Return the time s that a worker must stay so that a share MAX_COLD_SHARE of requests waits for a start."""
    return math.log((1 + rate * start_s * (1 - MAX_COLD_SHARE)) / MAX_COLD_SHARE) / rate


def _list_start_limits(slo: SLO, steady: SteadyCapacity) -> Iterable[tuple[str, float, float]]:
    """Yield the limits that include a cold start: name, limit, and the latency without it."""
    if slo.ttft_p95_s is not None and isinstance(steady.ttft_p95_s, Estimate):
        yield "ttft_p95_s", slo.ttft_p95_s, steady.ttft_p95_s.value
    if slo.latency_p95_s is not None:
        yield "latency_p95_s", slo.latency_p95_s, steady.latency_p95_s.value


def _describe_cold_starts(pick: InstanceChoice, row: ServerlessPrice, usage: WorkerUsage) -> Iterable[str]:
    if pick.steady is None:
        return
    start, name = (
        f"{format_number(row.start_s)} s ({format_number(row.start_s_low)} to {format_number(row.start_s_high)})",
        pick.task.name,
    )
    yield f"{name}: {format_quantity(usage.cold, 'share')} of requests wait for a cold start of about {start}"
    if usage.idle_s > row.idle_s:
        idle, usual = format_duration(usage.idle_s), format_duration(row.idle_s)
        yield (
            f"{name}: kept warm: at the lowest load, a worker stays idle for {idle} (default {usual}). "
            f"At most {format_share(MAX_COLD_SHARE)} of requests start cold at any time of day"
        )


def _assess_cold_starts(pick: InstanceChoice, row: ServerlessPrice, usage: WorkerUsage) -> Iterable[LimitProbability]:
    """Yield the limits that include a cold start, because more than MAX_COLD_SHARE of the requests may wait for one."""
    workload = pick.task.workload
    if pick.steady is not None and workload.kind not in TEXT_KINDS:
        yield from assess_cold_latency(workload, pick.steady.latency_p95_s, row.start_s_high, row.provider)
    elif pick.steady is not None and usage.coldest > MAX_COLD_SHARE and usage.idle_s <= row.idle_s:
        for field, limit, warm in _list_start_limits(workload.slo, pick.steady):
            start = Estimate(
                value=row.start_s + warm, low=row.start_s_low + warm, high=row.start_s_high + warm, unit="s"
            )
            stated = (f"{workload.name}.{field}", limit, workload.slo.certainty)
            yield assess_limit(stated, start, basis="interval of a cold start")
