"""Assumptions of a plan, one sentence each with its field and value; and what the plan does not size."""

from collections.abc import Iterable

from archwright.catalog.catalog import Catalog
from archwright.contract.job_window import format_hour
from archwright.contract.needs import TEXT_KINDS, Needs, NeedsSource, Workload
from archwright.contract.number_format import (
    format_exact,
    format_interval,
    format_number,
    format_quantity,
    format_share,
)
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import (
    DEFAULT_TIER,
    MACHINE_AVAILABILITY,
    MACHINE_AVAILABILITY_LOW,
    SPARE_REQUIRED_ABOVE,
)
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.capacity.machine_count import RUN_START_H
from archwright.plan.capacity.night_window import MIDDLE_OF_DAY_H, NightWindow, find_night_window
from archwright.plan.capacity.purchase_options import MAX_SPOT_MACHINES, SPOT_REDONE_SHARE
from archwright.plan.demand.forecast import HOURS_PER_MONTH, OFF_HOURS_SHARE, PEAK_SHARE, load_driver

ON_PREMISES_PLACEMENTS = frozenset({"on-premises", "hybrid"})


def record_default_assumptions(needs: Needs, ledger: PlanProvenance) -> None:
    """A field counts as defaulted if it holds the default; stating the default has the same meaning."""
    for workload in needs.workloads:
        ledger.add_assumptions(*_list_workload_defaults(workload))
    for data in needs.data:
        if data.residency == ("any",):
            ledger.add_assumptions(f"data {data.name}: residency any")
    placement = needs.placement
    if placement.regions is None:
        ledger.add_assumptions("placement.regions: any region inside the residency of the data")
    if placement.accelerators is None:
        ledger.add_assumptions("placement.accelerators: any accelerator in the catalog")
    if needs.budget.per_month is None:
        ledger.add_assumptions("budget.per_month: no limit")
    if needs.budget.capex == 0:
        ledger.add_assumptions("budget.capex: 0, nothing may be purchased")
    ledger.add_assumptions(f"a month has {format_exact(HOURS_PER_MONTH)} hours")


def record_derived_loads(source: NeedsSource, ledger: PlanProvenance) -> None:
    """Record each value that `needs` derived, and the band of each load as a driver of costs by the token or second."""
    ledger.add_assumptions(*source.defaults)
    for load in source.loads:
        for one in load.values:
            low, value, high = (format_number(end) for end in (one.estimate.low, one.estimate.value, one.estimate.high))
            band = "" if one.estimate.low == one.estimate.high else f" ({low} to {high})"
            text = f"{load.workload}: {one.name} {value}{band} {one.estimate.unit}: {one.reason}."
            ledger.add_assumptions(f"{text} {one.override} replaces it.")
        if load.band.low == load.band.high:
            continue
        ledger.create_driver(
            load.band,
            load_driver(load.workload),
            "assumed",
            f"actual load of {load.workload} / planned load",
            formula="product of the bands of its rules; an output token counts as four input tokens",
            facts=tuple(one.reason for one in load.values),
        )
        ledger.add_assumptions(
            f"{load.workload}: the load may be {format_interval(load.band)} times the planned load. "
            "Costs by the token or by the second follow it. The number of machines follows the planned load only: plan "
            "again with other users or documents."
        )


def _list_workload_defaults(workload: Workload) -> Iterable[str]:
    name, traffic, slo = workload.name, workload.traffic, workload.slo
    if traffic is not None:
        if traffic.growth_per_year == 0:
            yield f"{name}: traffic.growth_per_year 0, the load does not grow"
        if traffic.hours_per_day == 24:
            yield f"{name}: traffic.hours_per_day 24, the mean load applies day and night"
        else:
            yield f"{name}: outside traffic.hours_per_day the load is {format_share(OFF_HOURS_SHARE)} of the mean"
    if not workload.data:
        yield f"{name}: data none, so no residency applies"
    if workload.kind in TEXT_KINDS:
        if workload.model is None and not workload.quality:
            yield f"{name}: no quality floor, so this machine serves the best model that fits"
        if workload.quality and workload.quality_unknown == "refuse":
            yield f"{name}: quality_unknown refuse, models without a score on the benchmark are not chosen"
        if workload.licence == "commercial":
            yield f"{name}: licence commercial, models that forbid commercial use are left out. Research may set any"
    unlimited = [field for field in ("ttft_p95_s", "tpot_p95_s", "availability") if getattr(slo, field) is None]
    if unlimited and traffic is not None:
        yield f"{name}: no limit on {', '.join(f'slo.{field}' for field in unlimited)}"


def record_rule_assumptions(
    needs: Needs, tasks: tuple[WorkloadTask, ...], ledger: PlanProvenance, *, catalog: Catalog
) -> None:
    steady = [task for task in tasks if task.demand is not None]
    allow = set(needs.placement.allow)
    if allow == {"this-machine"}:
        return
    if steady:
        ledger.add_assumptions(*_list_steady_rules(steady), *_list_unrated_models(steady))
    for name in dict.fromkeys(task.workload.name for task in tasks if task.place is not None):
        places = ", ".join(task.place or "" for task in tasks if task.workload.name == name)
        reason = "because the delay between continents breaks its limit"
        ledger.add_assumptions(f"{name}: {places} are each served from inside, {reason}")
    if any(task.job is not None for task in tasks):
        ledger.add_assumptions(*_list_job_rules(tasks))
    if allow & {"cloud", "hybrid", "hosted-api"}:
        ledger.add_assumptions(
            "rented machines are paid by the hour, or committed for one or three years if that costs less over the "
            "horizon. No commitment extends beyond the horizon."
        )
    if needs.placement.spot:
        ledger.add_assumptions(
            f"interruptible machines run batch jobs only, at most {MAX_SPOT_MACHINES} machines at once, because an "
            f"interruption of one stops all. Interruptions repeat {format_share(SPOT_REDONE_SHARE)} of a job's hours. "
            "A steady load never depends on interruptible machines."
        )
    if allow & ON_PREMISES_PLACEMENTS:
        if steady and (needs.placement.site is None or needs.placement.site.tier is None):
            ledger.add_assumptions(
                f"placement.site.tier: {DEFAULT_TIER}, power and cooling can be maintained without an outage"
            )
        ledger.add_assumptions(
            "on-premises machines are purchased at the start of each year for its busiest month. Workloads share them; "
            "batch jobs run beside the mean load, not during the peak."
        )
        ledger.add_assumptions(*_list_night_rules(tasks, find_night_window(needs, catalog)))
    if "hybrid" in allow:
        ledger.add_assumptions(
            "hybrid: the residency of the data decides which work may leave the site. A regulation adds controls, such "
            "as a contract with the provider, and bars no place inside the residency"
        )


def _list_night_rules(tasks: tuple[WorkloadTask, ...], night: NightWindow | None) -> Iterable[str]:
    if night is not None and any(task.job is not None for task in tasks):
        closed = f"{format_hour(night.starts_h)} to {format_hour(night.starts_h + night.lasts_h)} ({night.time_zone})"
        yield (
            f"services open around {format_hour(MIDDLE_OF_DAY_H)}, so jobs may use their machines from {closed}. A "
            "service without slo.availability may stop meanwhile. Other services keep machines for their load at night."
        )


def _list_unrated_models(steady: list[WorkloadTask]) -> Iterable[str]:
    """Name the models without evidence for a floor, once for the same floors."""
    for floors, names in {(" and ".join(task.workload.quality), task.unrated): None for task in steady if task.unrated}:
        yield (
            f"not chosen, because {floors} has no score and no estimate: {', '.join(names)}. They are too small or too "
            "old for an estimate, or have too few scores"
        )


def _list_steady_rules(steady: list[WorkloadTask]) -> Iterable[str]:
    yield (
        f"machines follow three load levels per day: the peak for {format_quantity(PEAK_SHARE, 'share')} of the open "
        "hours, the mean in the others, the off-hours load outside. At least one machine always runs."
    )
    for task in steady:
        if task.demand is not None and task.demand.pauses:
            yield f"{task.name}: machines run until the deadline of each refresh, then stop"
    yield (
        f"each machine is available {format_quantity(MACHINE_AVAILABILITY, 'share')} of the time "
        f"({format_share(MACHINE_AVAILABILITY_LOW)} at the low end); machine failures are independent; a "
        "site outage affects all machines. Spares keep machine failures "
        "within half of the allowed downtime. If users and machines share a site, its outages are not counted."
    )
    for task in steady:
        if (task.workload.slo.availability or 0.0) > SPARE_REQUIRED_ABOVE:
            threshold = format_share(SPARE_REQUIRED_ABOVE)
            yield f"{task.name}: availability above {threshold} requires at least one spare machine"


def _list_job_rules(tasks: tuple[WorkloadTask, ...]) -> Iterable[str]:
    yield f"each run of a job pays {format_number(RUN_START_H * 60)} minutes of start-up for machines and data"
    for task in tasks:
        job, workload = task.job, task.workload
        stated = workload.deadline_h or (workload.traffic.deadline_h if workload.traffic is not None else None)
        if job is not None and stated is None:
            deadline_h = format_number(job.deadline_h)
            yield f"{task.name}: deadline_h {deadline_h}, a quarter of the time until the next run or 90 days"


NOT_SIZED = "not sized yet"


def list_unsized(needs: Needs, tasks: tuple[WorkloadTask, ...], ledger: PlanProvenance) -> tuple[str, ...]:
    """Fill the plan's `not_sized`. Return the workloads whose cost is in no option."""
    sized = {task.workload.name for task in tasks}
    missing = {workload.name: workload.kind for workload in needs.workloads if workload.name not in sized}
    for name, kind in missing.items():
        text = f"workload {name} ({kind}): cost not included, because the workload does not state enough traffic"
        ledger.add_not_sized(text)
    for workload in needs.workloads:
        apart = any(task.place is not None for task in tasks if task.workload.name == workload.name)
        if workload.regions and not apart:
            places = ", ".join(f"{place} {format_share(share)}" for place, share in workload.regions.items())
            ledger.add_not_sized(
                f"workload {workload.name}: one region serves all of its traffic ({places}). Its latencies count from "
                "the gateway; network round trips (about 0.1 to 0.3 s between continents) come on top."
            )
    return tuple(missing)
