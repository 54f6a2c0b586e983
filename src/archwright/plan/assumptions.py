"""The defaults a plan used, each as a sentence naming the field and the value it took."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.needs import TEXT_KINDS, Needs, Workload
from archwright.plan.demand import HOURS_PER_MONTH, OFF_HOURS_SHARE
from archwright.plan.ledger import Ledger


def state_defaults(needs: Needs, ledger: Ledger) -> None:
    """A field counts as defaulted when it holds the default: stating it means the same."""
    for workload in needs.workloads:
        ledger.assume(*_of_workload(workload))
    for data in needs.data:
        if data.residency == ("any",):
            ledger.assume(f"data {data.name}: residency any")
    placement = needs.placement
    if placement.regions is None:
        ledger.assume("placement.regions: any region inside the residency of the data")
    if placement.accelerators is None:
        ledger.assume("placement.accelerators: any the catalog has")
    if needs.budget.per_month is None:
        ledger.assume("budget.per_month: no limit")
    if needs.budget.capex == 0:
        ledger.assume("budget.capex: 0, nothing may be bought")
    ledger.assume(f"a month has {HOURS_PER_MONTH:g} hours")


def _of_workload(workload: Workload) -> Iterable[str]:
    name, traffic, slo = workload.name, workload.traffic, workload.slo
    if traffic is not None:
        if traffic.growth_per_year == 0:
            yield f"{name}: traffic.growth_per_year 0, the load stays as it is"
        if traffic.hours_per_day == 24:
            yield f"{name}: traffic.hours_per_day 24, the mean holds day and night"
        else:
            yield f"{name}: outside traffic.hours_per_day the load is {OFF_HOURS_SHARE:.0%} of the mean"
    if not workload.data:
        yield f"{name}: data none, so no residency binds it"
    if workload.kind in TEXT_KINDS:
        yield from _of_text(workload)
    unlimited = [field for field in ("ttft_p95_s", "tpot_p95_s", "availability") if getattr(slo, field) is None]
    if unlimited and traffic is not None:
        yield f"{name}: no limit on {', '.join(f'slo.{field}' for field in unlimited)}"


def _of_text(workload: Workload) -> Iterable[str]:
    name = workload.name
    if workload.model is None and not workload.quality:
        yield f"{name}: no quality floor, so the smallest model that fits is chosen"
    if workload.quality and workload.quality_unknown == "refuse":
        yield f"{name}: quality_unknown refuse, a model without a figure on the benchmark is not chosen"
    if workload.licence == "any":
        yield f"{name}: licence any, models that forbid commercial use stay in"
