"""Options with machines in the house: all of it there (on-premises), or part of it at a cloud (hybrid).

Data of people (personal, health, payment) stay in the house; other work goes where it costs the least, and a steady
load may stay up to its mean and send its peaks out. The integer program decides all of it at once; what an
option pays beside machines is known only afterwards, so limits that it breaks by that are tightened and it is asked
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import PRIVATE_SENSITIVITIES, Needs
from archwright.contract.plan import ConstraintViolation
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.capacity.candidates import ModelOptions, SizingCache, WorkloadTask
from archwright.plan.cost.staffing import compute_serving_staff_usd
from archwright.plan.demand.data_residency import ResidencyBounds, collect_bounds, format_bounds, is_country_inside
from archwright.plan.demand.forecast import Demand, split_into_years
from archwright.plan.demand.model_selection import format_scores, get_model_id, is_better_model
from archwright.plan.options.cloud_instances import InstanceChoice, InstanceSelector
from archwright.plan.options.edge_sites import EdgeSitePlanner, runs_at_sites
from archwright.plan.options.hardware_schedule import HardwareScheduler
from archwright.plan.options.option_builder import (
    BuiltOption,
    OptionBuilder,
    OptionPart,
    PoolWriter,
    ProvisionedLoad,
    join_parts,
    sum_capex_usd,
    sum_monthly_usd,
)
from archwright.plan.options.owned_hardware import (
    Assignments,
    OnPremisesSite,
    TaskAssignment,
    add_shared_spares,
    build_steady_choice,
    compute_machine_share,
    count_broken_limits,
)
from archwright.plan.solver.integer_program import IntegerProgram
from archwright.plan.solver.problem import AssignmentChoice, MachineSupply, MipSolution, SolverLimits, prune_dominated
from archwright.plan.violations import build_violation
from archwright.sizing.hardware.machine import SteadyCapacity

MAX_ROUNDS = 4
# A limit is tightened by a little more than what was over it.
TIGHTENING_MARGIN = 1.02
ABOVE_MEAN_SUFFIX = "-above-mean"
MODELS_TRIED = 3


class PlanningContext(NamedTuple):
    """What every planner of a plan shares."""

    needs: Needs
    catalog: Catalog
    sizer: SizingCache
    renter: InstanceSelector
    writer: PoolWriter
    settler: HardwareScheduler
    assembler: OptionBuilder
    usd: float  # what one unit of the budget's currency is

    def format_amount(self, usd: float) -> str:
        return f"{usd / self.usd:,.0f} {self.needs.budget.currency}"


class OnPremisesPlanner:
    def __init__(self, world: PlanningContext, tasks: tuple[WorkloadTask, ...], *, expired: bool = True) -> None:
        self._world, self._tasks = world, tasks
        self._house = OnPremisesSite(world.needs, world.catalog, world.sizer, expired=expired)
        self._spans = split_into_years(world.needs.budget.horizon_months)
        # The year of each month.
        self._years = tuple(year for year, span in enumerate(self._spans) for _ in span)
        self._inside = tuple(task for task in tasks if not runs_at_sites(task))
        sites = EdgeSitePlanner(world.needs, world.catalog, world.sizer, world.settler)
        self._sites = join_parts(sites.plan_task(task) for task in tasks if runs_at_sites(task))
        self._models = {task.name: self._models_to_try(task) for task in tasks}

    def _models_to_try(self, task: WorkloadTask) -> ModelOptions:
        """Of a followed or shared task, only the models of which each machine type carries the most."""
        demand, owns = task.demand, any(stock.purchase == "owned" for stock in self._house.stocks)
        followed = any(other.follows == task.name for other in self._tasks)
        if demand is None or not (followed or owns):
            return task.models
        kept: dict[str, ModelSpec | None] = {}
        for stock in self._house.stocks:
            sized = [(self._world.sizer.steady(demand, model, stock.host), model) for model in task.models]
            able = [(one, model) for one, model in sized if one is not None]
            strongest = sorted(able, key=lambda pair: _rank_by_weakness(demand, *pair))[:MODELS_TRIED]
            kept |= {get_model_id(model): model for _, model in strongest}
        return tuple(model for model in task.models if get_model_id(model) in kept)

    def plan_option(self, provider: str | None) -> BuiltOption:
        """All of it here, or the rest at a provider."""
        regions = (self._house.country,)
        if provider is None:
            draft = OptionDraft("on-premises", "on-premises", "on-premises", regions=regions)
            return self._optimise_option(draft, {})
        draft = OptionDraft(f"hybrid-{provider}", "hybrid", provider, regions=regions)
        outside = {task.name: self._cloud_assignments(provider, task) for task in self._inside}
        return self._optimise_option(draft, outside)

    def _optimise_option(self, draft: OptionDraft, outside: Mapping[str, Iterable[TaskAssignment]]) -> BuiltOption:
        misses, ways = self._check_residency(), list[TaskAssignment]()
        if misses:
            draft = draft._replace(regions=(), misses=tuple(misses))
            return self._world.assembler.build(draft, OptionPart(notes=tuple(self._house.notes)), (), whole=False)
        for task in self._inside:
            found = [*self._on_site_assignments(task), *outside.get(task.name, ())]
            misses += task.misses if not found else ()
            if not found and task.place is not None and not self._is_near_task(task):
                regions = f"{task.workload.name}.traffic.regions"
                misses.append(build_violation(regions, self._house.country, task.place))
            elif not found and not task.misses:
                limit = "a machine that holds it and whose speed is known"
                misses.append(build_violation(f"{task.name}.model", _get_first_model(task), limit))
            ways += found
        notes = tuple(note for task in self._tasks for note in task.notes)
        draft = draft._replace(misses=tuple(dict.fromkeys(misses)), notes=(*notes, *self._house.notes))
        if misses:
            return self._world.assembler.build(draft, self._sites, (), whole=False)
        if draft.placement == "hybrid" and not any(way.choice.outside for way in ways):
            private = all(self._uses_private_data(task) for task in self._inside)
            why = "data of people stay in the house" if private else "no work that may leave the house"
            nothing = build_violation("hybrid", why, draft.provider)
            # It would be the house alone, which is an option of its own.
            return self._world.assembler.build(draft._replace(misses=(nothing,)), OptionPart(), (), whole=False)
        return self._solve_within_limits(draft, tuple(ways))

    def _solve_within_limits(self, draft: OptionDraft, ways: Assignments) -> BuiltOption:
        """Solves with tighter limits while other costs break one; without any if none can be kept."""
        kept = set(prune_dominated(tuple(way.choice for way in ways), self._machine_kinds, self._follows))
        limits, last, ways = self._initial_limits(), None, tuple(way for way in ways if way.choice in kept)
        for _ in range(MAX_ROUNDS):
            solution = self._solve(ways, limits)
            if solution is None:
                break
            last = self._build_from_solution(draft, ways, solution)
            tighter = self._tighten_limits(limits, last.draft, ways, solution)
            if tighter == limits:
                return last
            limits = tighter
        if last is not None:
            return last
        solution = self._solve(ways, SolverLimits())
        if solution is None:
            unequal = build_violation("model", None, "one model for a workload and what follows it")
            return self._world.assembler.build(draft._replace(misses=(unequal,)), self._sites, (), whole=False)
        return self._build_from_solution(draft, ways, solution)

    @property
    def _machine_kinds(self) -> tuple[MachineSupply, ...]:
        return tuple(stock.kind for stock in self._house.stocks)

    @property
    def _follows(self) -> dict[str, str]:
        return {task.name: task.follows for task in self._inside if task.follows is not None}

    def _solve(self, ways: Assignments, limits: SolverLimits) -> MipSolution | None:
        choices = tuple(way.choice for way in ways)
        program = IntegerProgram(choices, self._machine_kinds, self._follows)
        if any(choice.outside for choice in choices):
            program.require_hybrid()
            # Who looks after machines that answer is there for one workload as for all.
            answering = (i for i, way in enumerate(ways) if way.choice.outside and way.task.demand is not None)
            program.add_one_time_cost(compute_serving_staff_usd(self._world.needs, self._world.catalog), answering)
        return program.solve(limits)

    def _build_from_solution(self, draft: OptionDraft, ways: Assignments, solution: MipSolution) -> BuiltOption:
        used = [(ways[one.choice], one if one.shares else None) for one in solution.taken]
        # In the needs' order, which names lines: the program's own would rename them with every change of the needs.
        names = [task.name for task in self._inside]
        apart = assign_pool_suffixes([way._replace(part=part) for way, part in used])
        taken, world = tuple(sorted(apart, key=lambda way: names.index(way.task.name))), self._world
        held = zip(self._house.stocks, solution.machines, strict=True)
        had = tuple((stock, tuple(counts[year] for year in self._years)) for stock, counts in held)
        home = world.settler.write_part(had, taken, draft.name)
        picks = {way.pick.task.name: way.pick for way in taken if way.pick is not None}
        rented = [self._mark_overflow_share(world.writer.write_rented(pick), pick) for pick in picks.values()]
        part = join_parts([home, *rented, self._sites])
        regions = sorted({way.pick.host.where.region for way in taken if way.pick is not None})
        said = [*self._house.describe_idle_machines(part.fleets)]
        said += [note for way in taken for note in self._describe_better_model(way)]
        draft = draft._replace(regions=(*draft.regions, *regions), notes=(*draft.notes, *said))
        return world.assembler.build(draft, part, (self._house.where,), whole=True)

    @staticmethod
    def _mark_overflow_share(part: OptionPart, pick: InstanceChoice) -> OptionPart:
        """Rented machines that serve what is above another part of the same load say so."""
        above = pick.task.demand
        if above is None or not above.elsewhere:
            return part
        whole, years = above._replace(elsewhere=()), split_into_years(len(above.growth))
        shares = tuple(sum(map(above.requests, year)) / sum(map(whole.requests, year)) for year in years)
        serving = (one._replace(part=0.0) if isinstance(one, ProvisionedLoad) else one for one in part.serving)
        return part._replace(serving=tuple(serving), pools=tuple(replace(pool, shares=shares) for pool in part.pools))

    def _describe_better_model(self, way: TaskAssignment) -> Iterable[str]:
        """What a better model would take of the same machines."""
        workload, model, machine = way.task.workload, way.model, way.choice.machine
        if way.steady is None or model is None or machine is None or way.suffix:
            return
        every = self._house.list_assignments(way.task, way.task.models, followed=True)
        able = [
            (max(other.choice.peak), other.model)
            for other in every
            if other.choice.machine == machine and other.model is not None
            if is_better_model(workload, other.model, model) and not count_broken_limits(other)
        ]
        if able:
            taken, better = min(able, key=lambda one: one[0])
            named = [f"{one.id} ({format_scores(workload, one)})" for one in (better, model)]
            more = f"{taken:.3g} machines at the peak, not {max(way.choice.peak):.3g}"
            yield f"{way.task.name}: {named[0]} instead of {named[1]} would take {more}"

    def _initial_limits(self) -> SolverLimits:
        needs, site = self._world.needs, self._world.needs.placement.site
        spent = sum(term.sum for term in self._sites.terms if term.once)
        return SolverLimits(
            capex_usd=max(0.0, needs.budget.capex * self._world.usd - spent),
            power_kw=site.power_kw if site is not None else None,
            rack_units=site.rack_units if site is not None else None,
        )

    def _tighten_limits(
        self, limits: SolverLimits, draft: OptionDraft, ways: Assignments, solution: MipSolution
    ) -> SolverLimits:
        budget, usd, terms = self._world.needs.budget, self._world.usd, draft.terms or ()
        over = sum_capex_usd(terms) - budget.capex * usd
        if over > 0 and limits.capex_usd is not None:
            limits = limits._replace(capex_usd=limits.capex_usd - over * TIGHTENING_MARGIN)
        for miss in draft.misses:
            if miss.constraint in ("power_kw", "rack_units"):
                excess = (float(miss.value or 0) - float(miss.limit or 0)) * TIGHTENING_MARGIN
                limits = limits._replace(**{miss.constraint: (getattr(limits, miss.constraint) or 0.0) - excess})
        if budget.per_month is not None and (over := sum_monthly_usd(terms) - budget.per_month * usd) > 0:
            used = (ways[one.choice].choice for one in solution.taken)
            counted = sum({choice.task: choice.usd_per_month for choice in used}.values())
            stocks = zip(self._house.stocks, solution.machines, strict=True)
            counted += sum(stock.kind.sum_over_years(stock.kind.usd_per_month, counts) for stock, counts in stocks)
            least = min(counted, limits.usd_per_month or counted)
            limits = limits._replace(usd_per_month=least - over * TIGHTENING_MARGIN)
        return limits

    def _check_residency(self) -> list[ConstraintViolation]:
        country = self._house.country
        every = (collect_bounds(self._world.needs, task.workload) for task in self._inside)
        outside = (bounds for bounds in every if not is_country_inside(self._world.catalog, bounds, country))
        return [build_violation("residency", country, format_bounds(bounds)) for bounds in outside][:1]

    def _is_near_task(self, task: WorkloadTask) -> bool:
        """Whether the house is where the task must be answered."""
        place: ResidencyBounds = ((task.place,),) if task.place is not None else ()
        return is_country_inside(self._world.catalog, place, self._house.country)

    def _on_site_assignments(self, task: WorkloadTask) -> list[TaskAssignment]:
        if not self._is_near_task(task):
            return []
        followed = task.follows is not None or any(other.follows == task.name for other in self._inside)
        ways = self._house.list_assignments(task, self._models_for(task), followed=followed)
        return add_shared_spares(ways, self._house.owned_types)

    def _models_for(self, task: WorkloadTask) -> ModelOptions:
        return self._models.get(task.follows if task.follows is not None else task.name, ())

    def _cloud_assignments(self, provider: str, task: WorkloadTask) -> Iterable[TaskAssignment]:
        """What may leave the house: whole, or the load above the mean."""
        if self._uses_private_data(task):
            return
        renter = self._world.renter
        followed = any(other.follows == task.name for other in self._inside)
        models, apart = self._models_for(task), task.follows is not None or followed
        for group in [(model,) for model in models] if apart else [models]:
            pick = renter.best_choice(provider, task, group)
            if pick is not None and not pick.misses:
                model, outside = get_model_id(pick.model), pick.task.name
                usd = self._monthly_usd(pick)
                choice = AssignmentChoice(task.name, model, None, pick.cost, usd, outside=outside)
                yield TaskAssignment(choice, task, pick.model, pick=pick)
        if task.demand is not None and not followed:
            yield from self._overflow_assignments(provider, task, task.demand)

    def _overflow_assignments(self, provider: str, task: WorkloadTask, demand: Demand) -> Iterable[TaskAssignment]:
        """The mean stays and the peaks go out; or so much stays as some of the owned machines carry while they last."""
        found = list[TaskAssignment]()
        alone = replace(demand.workload, slo=replace(demand.workload.slo, availability=None))
        for way in self._on_site_assignments(task):
            if way.steady is None or way.choice.machine is None or count_broken_limits(way):
                continue
            mean = tuple(demand.levels[1].rate * growth for growth in demand.growth)
            # In the house are spares for the peaks; what is served outside for months has its own there.
            found += self._split_load(provider, way, demand._replace(workload=alone), (ABOVE_MEAN_SUFFIX, mean))
            for machines, name in self._owned_base_loads(way.choice.machine):
                carried = tuple(way.steady.requests_per_s.value * machines[year] for year in self._years)
                found += self._split_load(provider, way, demand, (f"-above-{name}", carried))
        yield from add_shared_spares(found, self._house.owned_types)

    def _owned_base_loads(self, machine: str) -> Iterable[tuple[tuple[int, ...], str]]:
        owned = [stock.kind.most for stock in self._house.stocks if stock.kind.machine == machine and stock.kind.most]
        there = tuple(map(sum, zip(*owned, strict=True)))
        for count in range(1, max(there, default=0) + 1):
            yield tuple(min(count, one) for one in there), f"{count}-{machine}"

    def _split_load(
        self, provider: str, way: TaskAssignment, demand: Demand, named: tuple[str, tuple[float, ...]]
    ) -> Iterable[TaskAssignment]:
        (name, kept), whole, steady, machine = named, way.task.demand, way.steady, way.choice.machine
        above = demand.excess_over(kept)
        if whole is None or steady is None or machine is None or above.peak <= 0:
            return
        rest = way.task._replace(name=f"{way.task.name}{name}", demand=above, workload=above.workload)
        pick = self._world.renter.best_choice(provider, rest, (way.model,))
        if pick is not None and not pick.misses:
            parted = way._replace(pick=pick, kept=kept)
            choice = build_steady_choice(way.task.name, whole, way.model, steady, machine, kept)
            work = zip(way.choice.work_usd, self._spans, strict=True)
            done = tuple(usd * sum(parted.served_share(whole, m) for m in year) / len(year) for usd, year in work)
            choice = choice._replace(outside=rest.name, usd=pick.cost, work_usd=done)
            yield parted._replace(choice=choice._replace(usd_per_month=self._monthly_usd(pick)))

    def _monthly_usd(self, pick: InstanceChoice) -> float:
        return pick.usd / self._world.needs.budget.horizon_months

    def _uses_private_data(self, task: WorkloadTask) -> bool:
        used = (data for data in self._world.needs.data if data.name in task.workload.data)
        return any(data.sensitivity in PRIVATE_SENSITIVITIES for data in used)


def _rank_by_weakness(
    demand: Demand, steady: SteadyCapacity, model: ModelSpec | None
) -> tuple[int, float, float, float]:
    """Broken limits, what is taken of a machine at the peak; of equals the better model, then the lighter one."""
    known = model.quality if model is not None else {}
    score = sum(known.get(benchmark) or 0.0 for benchmark in demand.workload.quality)
    taken = compute_machine_share(demand.peak_at_horizon, steady)
    return len(steady.misses), taken, -score, -steady.requests_per_s.value


def assign_pool_suffixes(ways: list[TaskAssignment]) -> Assignments:
    """Of a load that is shared the part with the most in the last years has its name; the others add a machine's."""
    found, first = list[TaskAssignment](), set[str]()
    for way in sorted(ways, key=lambda one: one.part.shares[::-1] if one.part is not None else (), reverse=True):
        inside = way.choice.machine is not None
        found.append(way._replace(suffix=f"-{way.choice.machine}") if inside and way.task.name in first else way)
        first.update([way.task.name] if inside else [])
    return tuple(found)


def _get_first_model(task: WorkloadTask) -> str:
    return next((model.id for model in task.models if model is not None), task.workload.kind)
