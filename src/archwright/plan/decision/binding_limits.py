"""Binding limits: what each limit of the needs costs, as the difference of two plans.

Four sources. An option that misses one limit alone and costs less than the chosen one. A cheaper option that ranks
behind because its limits hold with less than the required certainty. A preferred placement that costs more than the
cheapest option. The chosen option planned again with one limit or the certainty relaxed: sizing its machines with
relaxed limits shows which of them can save most, and only these few are planned again.
Design: a saving of an option that is planned again is a lower bound: another option may gain more by the same change.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import BindingLimit
from archwright.contract.needs import SLO, Needs, Workload
from archwright.contract.number_format import format_exact
from archwright.contract.plan import BUDGET_LIMITS, Option
from archwright.contract.record import replace
from archwright.plan.accounting.budget import BudgetConverter, OptionDraft, is_capex, is_monthly
from archwright.plan.capacity.availability import SPARE_REQUIRED_ABOVE
from archwright.plan.capacity.candidates import CandidateMachine, SizingCache
from archwright.plan.capacity.quotas import QUOTA_MISS
from archwright.plan.capacity.served_load import BatchLoad
from archwright.plan.capacity.service_levels import EVEN_ODDS
from archwright.plan.cost.data_placement import list_online_workloads, resolve_open_models
from archwright.plan.decision.selection import (
    get_total_cost,
    is_relaxable,
    round_to_pass,
)
from archwright.plan.options.option_builder import BuiltOption, ProvisionedLoad
from archwright.plan.violations import build_violation

LATENCY_FIELDS = ("ttft_p95_s", "tpot_p95_s", "latency_p95_s")
# A latency limit is relaxed by the smallest of these factors that brings most of the capacity of the largest.
FACTORS, MOST_OF_GAIN = (1.25, 1.5, 2.0, 3.0), 0.8
# A limit with less than this share of a number left is planned again without it.
NEAR_LIMIT = 0.85
# Each takes the time of one option; a hybrid option takes the longest, so only one of its limits is planned again.
MAX_REPLANS = 2
# A smaller share of the total is not worth a line.
MIN_SAVING_SHARE = 0.005
# Assumed shares of the affected cost that a relaxation may save: they only order what is planned again.
QUALITY_HOPE, ACCELERATOR_HOPE, SPOT_HOPE, PLACE_HOPE = 0.3, 0.3, 0.5, 0.1
FLOOR_STEP = 0.9

# Plans one option again with other needs; None if it does not exist then.
PlanAgain = Callable[[Needs, Option], OptionDraft | None]


class Relaxation(NamedTuple):
    """Needs with one limit relaxed. `hope`: a rough saving, which orders the relaxations."""

    constraint: str
    limit: float | str
    relaxed_to: float | str
    needs: Needs
    hope: float


class BindingLimitFinder:
    def __init__(
        self, needs: Needs, catalog: Catalog, sizer: SizingCache, converter: BudgetConverter, plan_again: PlanAgain
    ) -> None:
        self._needs, self._catalog, self._sizer = needs, catalog, sizer
        self._converter, self._plan_again = converter, plan_again

    def find_limits(self, best: BuiltOption, chosen: Option, options: Iterable[Option]) -> tuple[BindingLimit, ...]:
        """Return the limits that cost more than a small share of the total, the dearest first."""
        total = get_total_cost(chosen)
        found = [*self._limits_of_others(chosen, tuple(options)), *self._limits_of_chosen(best, chosen)]
        largest = dict[str, BindingLimit]()
        for one in sorted(found, key=lambda limit: (-limit.saves, limit.option)):
            if one.saves > MIN_SAVING_SHARE * abs(total):
                largest.setdefault(one.constraint, one)
        return tuple(largest.values())

    def _limits_of_others(self, chosen: Option, options: tuple[Option, ...]) -> Iterable[BindingLimit]:
        priced, total = [one for one in options if one.total_cost is not None], get_total_cost(chosen)
        for one in priced:
            missed = {miss.constraint for miss in one.misses}
            if len(missed) == 1 and is_relaxable(one.misses[0]):
                (miss, *_), saves = one.misses, total - get_total_cost(one)
                relaxed = round_to_pass(miss) if isinstance(miss.value, int | float) else str(miss.value)
                limit = "" if miss.limit is None else miss.limit
                yield _build_limit(miss.constraint, limit, relaxed, saves, one.name)
        if not chosen.doubts:
            yield from _price_uncertain_limits(total, [one for one in priced if one.feasible])
        prefer, feasible = self._needs.placement.prefer, [one for one in priced if one.feasible]
        cheapest = min(feasible, key=get_total_cost, default=chosen)
        if prefer is not None and chosen.placement == prefer != cheapest.placement:
            saves = total - get_total_cost(cheapest)
            yield _build_limit("placement.prefer", prefer, cheapest.placement, saves, cheapest.name)

    def _limits_of_chosen(self, best: BuiltOption, chosen: Option) -> Iterable[BindingLimit]:
        total = get_total_cost(chosen)
        ranked = sorted(self._list_relaxations(best, chosen), key=lambda each: (-each.hope, each.constraint))
        once = {one.constraint: one for one in reversed(ranked) if one.hope > MIN_SAVING_SHARE * abs(total)}
        most = 1 if chosen.placement == "hybrid" else MAX_REPLANS
        for one in sorted(once.values(), key=lambda each: (-each.hope, each.constraint))[:most]:
            cost = self._price_feasible(self._plan_again(one.needs, chosen), one.needs)
            if cost is not None:
                yield _build_limit(one.constraint, one.limit, one.relaxed_to, total - cost, chosen.name)

    def _price_feasible(self, draft: OptionDraft | None, needs: Needs) -> float | None:
        """Return the total of a draft that meets all of `needs`, in the budget's currency; None if it does not."""
        if draft is None or draft.terms is None or draft.misses:
            return None
        rate, budget = self._converter.exchange_rate, needs.budget
        month = rate * sum(term.sum for term in draft.terms if is_monthly(term)) / budget.horizon_months
        capex = rate * sum(term.sum for term in draft.terms if is_capex(term))
        within = capex <= budget.capex and (budget.per_month is None or month <= budget.per_month)
        return rate * sum(term.sum for term in draft.terms) if within else None

    # --- what may be relaxed

    def _list_relaxations(self, best: BuiltOption, chosen: Option) -> Iterable[Relaxation]:
        for index, workload in enumerate(self._needs.workloads):
            cost = self._cost_of_workloads(best.draft, {workload.name})
            yield from self._relax_workload(index, workload, best.draft, cost)
            for load in best.serving:
                if isinstance(load, ProvisionedLoad) and load.demand.workload.name == workload.name and cost:
                    yield from self._relax_service_levels(index, load, best.draft, cost)
        yield from self._relax_certainty(best)
        yield from self._relax_placement(best, chosen)
        yield from self._relax_budget(chosen)

    def _cost_of_workloads(self, draft: OptionDraft, names: set[str]) -> float:
        """Return what the machines of some workloads cost, an equal part of shared machines."""
        terms = (term for term in draft.terms or () if term.machines_of)
        shares = (term.sum * len(names & set(term.machines_of)) / len(term.machines_of) for term in terms)
        return self._converter.exchange_rate * sum(shares)

    def _change_workload(self, index: int, **changes: Any) -> Needs:
        changed = replace(self._needs.workloads[index], **changes)
        kept = self._needs.workloads
        return replace(self._needs, workloads=(*kept[:index], changed, *kept[index + 1 :]))

    def _relax_workload(self, index: int, workload: Workload, draft: OptionDraft, cost: float) -> Iterable[Relaxation]:
        for name, floor in workload.quality.items():
            lower = round(floor * FLOOR_STEP, 3)
            needs = self._change_workload(index, quality={**workload.quality, name: lower})
            yield Relaxation(f"{workload.name}.quality.{name}", floor, lower, needs, QUALITY_HOPE * cost)
        if workload.licence == "commercial" and workload.name in draft.models:
            needs = self._change_workload(index, licence="any")
            yield Relaxation(f"{workload.name}.licence", "commercial", "any", needs, PLACE_HOPE * cost)

    def _relax_service_levels(
        self, index: int, load: ProvisionedLoad, draft: OptionDraft, cost: float
    ) -> Iterable[Relaxation]:
        slo = self._needs.workloads[index].slo
        for field in LATENCY_FIELDS:
            limit = getattr(slo, field)
            eased = (replace(slo, **{field: limit * factor}) for factor in FACTORS if limit is not None)
            gains = [self._size_relaxed(load, draft, one) for one in eased]
            if gains and gains[-1] > 1:
                enough = 1 + MOST_OF_GAIN * (gains[-1] - 1)
                factor, gain = next(pair for pair in zip(FACTORS, gains, strict=True) if pair[1] >= enough)
                # With the same model: sizing every model again would take as long as the plan.
                same = {"model": draft.models[load.demand.workload.name]} if self._runs_open_model(load, draft) else {}
                hope = cost * (1 - 1 / gain)
                yield self._relax_slo(index, field, round(limit * factor, 4), hope, **same)
        spares = load.up.spares if load.up is not None else 0
        if slo.availability is not None and spares and load.up is not None:
            lower = max(SPARE_REQUIRED_ABOVE, round(1 - 10 * (1 - slo.availability), 6))  # one nine less
            hope = cost * spares / (load.up.needed + spares)
            if lower < slo.availability:
                yield self._relax_slo(index, "availability", lower, hope)

    def _runs_open_model(self, load: ProvisionedLoad, draft: OptionDraft) -> bool:
        return load.demand.workload.name in resolve_open_models(self._needs, self._catalog, draft.models)

    def _relax_slo(self, index: int, field: str, value: float, hope: float, **changes: Any) -> Relaxation:
        workload = self._needs.workloads[index]
        needs = self._change_workload(index, slo=replace(workload.slo, **{field: value}), **changes)
        return Relaxation(f"{workload.name}.{field}", getattr(workload.slo, field), value, needs, hope)

    def _size_relaxed(self, load: ProvisionedLoad, draft: OptionDraft, slo: SLO) -> float:
        """Return the capacity of the chosen machine under other service levels, over its capacity now; 0 if unknown."""
        workload = load.demand.workload
        fleets = (one for one in draft.fleets if one.machine == load.machine and workload.name in one.workloads)
        fleet = next(fleets, None)
        model = resolve_open_models(self._needs, self._catalog, draft.models).get(workload.name)
        if fleet is None:
            return 0.0
        host = CandidateMachine(fleet.where, fleet.machine, fleet.offer, fleet.node)
        sized = self._sizer.steady(load.demand._replace(workload=replace(workload, slo=slo)), model, host)
        return sized.requests_per_s.value / load.steady.requests_per_s.value if sized is not None else 0.0

    def _relax_certainty(self, best: BuiltOption) -> Iterable[Relaxation]:
        """Relax the certainty of all service levels to even odds: machines are then counted at the expected speed."""
        hope, workloads = 0.0, {one.name: one for one in self._needs.workloads}
        highest = max((one.slo.certainty for one in workloads.values()), default=EVEN_ODDS)
        for load in best.serving:
            if isinstance(load, ProvisionedLoad) and highest > EVEN_ODDS:
                workload, model = load.demand.workload, best.draft.models.get(load.demand.workload.name)
                eased = replace(workload.slo, certainty=EVEN_ODDS)
                cost = self._cost_of_workloads(best.draft, {workload.name})
                hope += cost * (1 - 1 / max(self._size_relaxed(load, best.draft, eased), 1.0))
                same = {"model": model} if self._runs_open_model(load, best.draft) else {}
                workloads[workload.name] = replace(workloads[workload.name], slo=eased, **same)
        if hope:
            needs = replace(self._needs, workloads=tuple(workloads.values()))
            yield Relaxation("slo.certainty", highest, EVEN_ODDS, needs, hope)

    def _relax_placement(self, best: BuiltOption, chosen: Option) -> Iterable[Relaxation]:
        placement, draft = self._needs.placement, best.draft
        whole = self._cost_of_workloads(draft, {workload.name for workload in self._needs.workloads})
        for field, hope in (("regions", PLACE_HOPE), ("accelerators", ACCELERATOR_HOPE)):
            pinned = getattr(placement, field)
            if pinned is not None:
                needs = replace(self._needs, placement=replace(placement, **{field: None}))
                yield Relaxation(f"placement.{field}", ", ".join(pinned), "any", needs, hope * whole)
        jobs = {workload.name for workload in self._needs.workloads} - list_online_workloads(self._needs)
        if not placement.spot and any(isinstance(load, BatchLoad) for load in best.serving):
            needs = replace(self._needs, placement=replace(placement, spot=True))
            hope = SPOT_HOPE * self._cost_of_workloads(draft, jobs) * (chosen.placement in ("cloud", "hybrid"))
            yield Relaxation("placement.spot", "false", "true", needs, hope)
        if chosen.placement not in ("cloud", "serverless"):
            return
        for index, data in enumerate(self._needs.data):
            if data.residency != ("any",):
                sets = (*self._needs.data[:index], replace(data, residency=("any",)), *self._needs.data[index + 1 :])
                needs = replace(self._needs, data=sets)
                limit = ", ".join(data.residency)
                yield Relaxation(f"data.{data.name}.residency", limit, "any", needs, PLACE_HOPE * whole)

    def _relax_budget(self, chosen: Option) -> Iterable[Relaxation]:
        """Relax money, power and racks that the chosen option nearly uses up, since they may decide its machines."""
        if chosen.placement not in ("on-premises", "hybrid"):
            return
        needs, site = self._needs, self._needs.placement.site
        used = {"per_month": chosen.cost_per_month, "capex": chosen.capex}
        for field in BUDGET_LIMITS:
            limit, amount = getattr(needs.budget, field), used[field]
            if limit and amount is not None and amount.value > NEAR_LIMIT * limit:
                more = replace(needs, budget=replace(needs.budget, **{field: limit * FACTORS[1]}))
                yield Relaxation(field, limit, limit * FACTORS[1], more, PLACE_HOPE * get_total_cost(chosen))
        here = {"power_kw": chosen.power_kw and chosen.power_kw.value, "rack_units": chosen.rack_units}
        for field, drawn in here.items():
            limit = getattr(site, field) if site is not None else None
            if site is not None and limit and drawn and drawn > NEAR_LIMIT * limit:
                wider = replace(site, **{field: limit * FACTORS[1]})
                more = replace(needs, placement=replace(needs.placement, site=wider))
                yield Relaxation(field, limit, limit * FACTORS[1], more, PLACE_HOPE * get_total_cost(chosen))


def _price_uncertain_limits(total: float, feasible: Iterable[Option]) -> Iterable[BindingLimit]:
    """Yield the limits that an option holds with too little certainty; several limits of one option go together.

    Each is relaxed to the value that the prediction holds with the certainty. A provider's quota cannot be relaxed.
    """
    for one in feasible:
        values = [it.predicted.quantile(1 - it.certainty if it.at_least else it.certainty) for it in one.doubts]
        pairs = list(zip(one.doubts, values, strict=True))
        if (
            pairs
            and all((it.stated > at if it.at_least else it.stated < at) for it, at in pairs)
            and not any(it.limit.startswith(QUOTA_MISS) for it in one.doubts)
        ):
            names, limit = (
                ", ".join(it.limit for it, _ in pairs),
                ", ".join(f"{format_exact(it.stated)}" for it, _ in pairs),
            )
            relaxed = ", ".join(round_to_pass(build_violation(it.limit, at, it.stated)) for it, at in pairs)
            yield _build_limit(names, limit, relaxed, total - get_total_cost(one), one.name)


def _build_limit(
    constraint: str, limit: float | str, relaxed_to: float | str, saves: float, option: str
) -> BindingLimit:
    return BindingLimit(constraint=constraint, limit=limit, relaxed_to=relaxed_to, saves=saves, option=option)
