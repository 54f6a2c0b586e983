"""Options with on-premises machines: all work on site (on-premises), or part of it at a cloud (hybrid).

Residency decides where work may go. It goes to the cheapest allowed place, and a steady load may stay on site up to its
mean and send its peaks to a cloud. The integer program decides all of this together. It does not know the other
costs of an option, so limits that these break are tightened and the program is solved again.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_money
from archwright.contract.plan import ConstraintViolation
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft, is_capex, is_monthly
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.candidates import MachineFinder, ModelOptions, SizingCache, WorkloadTask
from archwright.plan.cost.facility_costs import BUILDING_NETWORK_MACHINES, compute_further_place_usd
from archwright.plan.cost.staffing import compute_serving_staff_usd
from archwright.plan.demand.data_residency import (
    ResidencyBounds,
    collect_all_bounds,
    collect_bounds,
    format_bounds,
    is_country_inside,
)
from archwright.plan.demand.forecast import Demand, split_into_years
from archwright.plan.demand.model_selection import get_model_id
from archwright.plan.options import further_sites
from archwright.plan.options import owned_hardware as owned
from archwright.plan.options.cloud_instances import InstanceChoice, InstanceSelector
from archwright.plan.options.edge_sites import EdgeSitePlanner
from archwright.plan.options.hardware_schedule import HardwareScheduler
from archwright.plan.options.option_builder import (
    BuiltOption,
    OptionBuilder,
    OptionPart,
    PoolWriter,
    ProvisionedLoad,
    join_parts,
    rank_by_cost,
)
from archwright.plan.options.owned_hardware import Assignments, TaskAssignment
from archwright.plan.solver.integer_program import IntegerProgram
from archwright.plan.solver.problem import (
    AssignmentChoice,
    MipSolution,
    SolverLimits,
    keep_cheapest_types,
    prune_dominated,
)
from archwright.plan.violations import build_violation
from archwright.sizing.hardware.machine import SteadyCapacity

MAX_ROUNDS = 4
# A limit is tightened by this factor of its excess.
TIGHTENING_MARGIN = 1.02
ABOVE_MEAN_SUFFIX = "-above-mean"


class PlanningContext(NamedTuple):
    """Services that all planners of a plan share."""

    needs: Needs
    catalog: Catalog
    sizer: SizingCache
    renter: InstanceSelector
    writer: PoolWriter
    settler: HardwareScheduler
    assembler: OptionBuilder
    usd: float  # USD per unit of the budget's currency
    sites: dict[tuple[object, ...], OptionPart]  # planned machines at the sites of workloads

    def format_amount(self, usd: float) -> str:
        return f"{format_money(usd / self.usd, self.needs.budget.currency)}"

    def plan_sites(self, tasks: Iterable[WorkloadTask]) -> OptionPart:
        placed = [task for task in tasks if task.workload.sites]
        key = tuple((task.name, *map(get_model_id, task.models)) for task in placed)
        if key not in self.sites:
            planner = EdgeSitePlanner(self.needs, self.catalog, self.sizer, self.settler)
            self.sites[key] = join_parts(map(planner.plan_task, placed))
        return self.sites[key]


def list_unsold_machines(world: PlanningContext, tasks: Iterable[WorkloadTask]) -> tuple[str, ...]:
    """Return the machine types that could do some of the work, but have no valid price."""
    finder, where = MachineFinder(world.needs, world.catalog), Location("on-premises", "on-premises", "", "")
    return tuple(
        host.machine.id
        for host in finder.list_purchasable(where)
        if not world.catalog.has_valid_price(owned.require_node(host))
        and any(finder.is_suitable(task, host) for task in tasks if not task.workload.sites)
    )


class OnPremisesPlanner:
    def __init__(self, world: PlanningContext, tasks: tuple[WorkloadTask, ...]) -> None:
        self._world, self._needs, self._tasks = world, world.needs, tasks
        self._site = owned.OnPremisesSite(world.needs, world.catalog, world.sizer)
        self._spans = split_into_years(world.needs.budget.horizon_months)
        # The year of each month.
        self._years = tuple(year for year, span in enumerate(self._spans) for _ in span)
        whole = tuple(task for task in tasks if not task.workload.sites)
        placed = further_sites.assign_tasks(world.needs, world.catalog, whole)
        self._central = placed.pop(further_sites.MAIN)
        self._further = {name: here for name, here in placed.items() if here}
        self._further_parts: dict[tuple[object, ...], OptionPart] = {}
        self._split = tuple(further_sites.describe_split(whole, world.needs, world.catalog))
        self._edge = world.plan_sites(tasks)
        self._kinds = tuple(stock.kind for stock in self._site.stocks)
        self._follows = {task.name: task.follows for task in self._central if task.follows is not None}
        self._models = {task.name: self._models_to_try(task) for task in tasks}

    def _models_to_try(self, task: WorkloadTask) -> ModelOptions:
        """For a followed or shared task, return the models that may cost the least.

        That is the model with the highest capacity on some machine type, and the smallest, which trains the fastest.
        """
        followed = any(other.follows == task.name for other in self._tasks)
        if task.demand is None or not (followed or self._site.owned_types):
            return task.models
        kept = {get_model_id(model) for model in task.models[:1] if followed}
        for stock in self._site.stocks:
            sized = self._world.sizer.list_steady(task, task.models, stock.host)
            strongest = min(sized, key=lambda one: _rank_by_weakness(*one), default=None)
            kept |= {get_model_id(strongest[1])} if strongest is not None else set()
        return tuple(model for model in task.models if get_model_id(model) in kept)

    def price_models(self, task: WorkloadTask) -> dict[str, float]:
        """Return the cost in USD of each model if the task alone had whole machines of the cheapest type."""
        months = self._needs.budget.horizon_months
        usd = {
            one.machine: max(one.usd) if one.most is None else sum(one.usd_per_month) * months for one in self._kinds
        }
        found = dict[str, float]()
        for each in self._site.list_assignments(task, (*task.models, *task.alternatives), followed=True):
            choice = each.choice
            if choice.machine is not None and choice.peak and not owned.count_broken_limits(each):
                machines = math.ceil(max(choice.peak)) + max(choice.spares, default=0)
                cost = machines * usd[choice.machine] + sum(choice.work_usd)
                found[choice.model] = min(cost, found.get(choice.model, cost))
        return found

    def plan_option(self, provider: str | None) -> BuiltOption:
        """Plan all work on site, or the rest at a cloud provider."""
        regions = (self._site.country,)
        if provider is None:
            draft = OptionDraft("on-premises", "on-premises", "on-premises", regions=regions)
            return self._optimise_option(draft, {})
        draft = OptionDraft(f"hybrid-{provider}", "hybrid", provider, regions=regions)
        renters = self._choose_renters(provider)
        rented = {task.name: self._cloud_assignments(provider, task, renters[task.name]) for task in self._central}
        return self._optimise_option(draft, rented)

    def _choose_renters(self, provider: str) -> dict[str, InstanceSelector]:
        """Return the selector of each task: of one region, where it saves less elsewhere than a further region costs.

        The region is the one with the lowest cost of all tasks.
        """
        world, found = self._world, dict[str, InstanceSelector]()
        fixed = compute_further_place_usd(self._needs, world.catalog)
        picks = {task.name: world.renter.best_choice(provider, task, self._models_for(task)) for task in self._central}
        regions = sorted({pick.host.where.region for pick in picks.values() if pick is not None})
        best = math.inf
        for region in regions if len(regions) > 1 else ():
            renter, total, chosen = world.renter.limit_to(region), 0.0, dict[str, InstanceSelector]()
            for task in self._central:
                apart, together = picks[task.name], renter.best_choice(provider, task, self._models_for(task))
                alone = apart.cost + fixed * (apart.host.where.region != region) if apart is not None else math.inf
                if together is not None and not together.misses and together.cost <= alone:
                    chosen[task.name], alone = renter, together.cost
                total += alone if apart is not None else 0.0
            if total < best:
                best, found = total, chosen
        return {task.name: found.get(task.name, world.renter) for task in self._central}

    def _optimise_option(self, draft: OptionDraft, rented: Mapping[str, Iterable[TaskAssignment]]) -> BuiltOption:
        assembler, site_notes = self._world.assembler, tuple(self._site.notes)
        for task in self._central:
            bounds = collect_bounds(self._needs, task.workload)
            if not is_country_inside(self._world.catalog, bounds, self._site.country):
                miss = build_violation("residency", self._site.country, format_bounds(bounds))
                return assembler.refuse(draft._replace(regions=()), miss, part=OptionPart(notes=site_notes))
        misses, assignments = list[ConstraintViolation](), list[TaskAssignment]()
        for task in self._central:
            found = [*self._on_site_assignments(task), *rented.get(task.name, ())]
            misses += task.misses if not found else ()
            if not found and task.place is not None and not self._is_near_task(task):
                misses.append(build_violation(f"{task.workload.name}.traffic.regions", self._site.country, task.place))
            elif not found and not task.misses:
                model = next((model.id for model in task.models if model is not None), task.workload.kind)
                limit = "a machine that holds it and whose speed is known"
                misses.append(build_violation(f"{task.name}.model", model, limit))
            assignments += found
        tasks_notes = (note for task in self._tasks for note in task.notes)
        draft = draft._replace(notes=(*tasks_notes, *self._split, *site_notes))
        if misses:
            return assembler.refuse(draft, *dict.fromkeys(misses), part=self._edge)
        if draft.placement == "hybrid" and not any(each.choice.outside for each in assignments):
            # Without rented machines the option equals the on-premises option.
            where = f"{draft.provider} in {format_bounds(collect_all_bounds(self._needs))}"
            return assembler.refuse(draft, build_violation("hybrid", "no suitable machine inside the residency", where))
        return self._choose_assignments(draft, tuple(assignments))

    def _choose_assignments(self, draft: OptionDraft, assignments: Assignments) -> BuiltOption:
        """Return the better of two solutions: with any number of machines, and with few.

        The program does not know that a larger site needs switches and storage servers."""
        best = self._solve_within_limits(draft, assignments, None)
        fitting = _select_for_small_site(assignments)
        if not fitting or _count_bought(best) <= BUILDING_NETWORK_MACHINES:
            return best
        small = self._solve_within_limits(draft, fitting, BUILDING_NETWORK_MACHINES)
        return min(best, small, key=rank_by_cost)

    def _solve_within_limits(self, draft: OptionDraft, assignments: Assignments, machines: int | None) -> BuiltOption:
        """Solve, and tighten limits while other costs break one; without limits if none can be kept."""
        choices = tuple(each.choice for each in assignments)
        kept = set(keep_cheapest_types(prune_dominated(choices, self._kinds, self._follows), self._kinds))
        assignments = tuple(each for each in assignments if each.choice in kept)
        site, spent, last = self._needs.placement.site, sum(term.sum for term in self._edge.terms if term.once), None
        limits = SolverLimits(
            capex_usd=max(0.0, self._needs.budget.capex * self._world.usd - spent),
            power_kw=site.power_kw if site is not None else None,
            rack_units=site.rack_units if site is not None else None,
            machines=machines,
        )
        for _ in range(MAX_ROUNDS):
            solution = self._solve(assignments, limits)
            if solution is None:
                break
            last = self._build_from_solution(draft, assignments, solution)
            tighter = self._tighten_limits(limits, last.draft, assignments, solution)
            if tighter == limits:
                return last
            limits = tighter
        if last is not None:
            return last
        solution = self._solve(assignments, SolverLimits())
        if solution is None:
            unequal = build_violation("model", None, "one model for a workload and its followers")
            return self._world.assembler.refuse(draft, unequal, part=self._edge)
        return self._build_from_solution(draft, assignments, solution)

    def _solve(self, assignments: Assignments, limits: SolverLimits) -> MipSolution | None:
        choices = tuple(each.choice for each in assignments)
        program = IntegerProgram(choices, self._kinds, self._follows)
        if any(choice.outside for choice in choices):
            program.require_hybrid()
            # The staff for rented machines that serve requests is the same for one workload as for all.
            serving = (i for i, one in enumerate(assignments) if one.choice.outside and one.task.demand is not None)
            program.add_one_time_cost(compute_serving_staff_usd(self._needs, self._world.catalog), serving)
            # One region is always used; each further one has fixed costs.
            places = sorted({each.pick.host.where for each in assignments if each.pick is not None})
            for place in places if len(places) > 1 else ():
                here = (i for i, one in enumerate(assignments) if one.pick is not None and one.pick.host.where == place)
                program.add_one_time_cost(compute_further_place_usd(self._needs, self._world.catalog), here)
        return program.solve(limits)

    def _plan_further_sites(self, models: Mapping[str, ModelSpec | None]) -> Iterable[OptionPart]:
        """Yield the parts of the further sites; `models`: of the tasks at the main site."""
        world = self._world
        planner = further_sites.FurtherSitePlanner(world.needs, world.catalog, world.sizer, world.settler)
        for name, tasks in self._further.items():
            key = (name, *(get_model_id(models[task.name]) for task in tasks if task.name in models))
            if key not in self._further_parts:
                self._further_parts[key] = planner.plan_site(name, tasks, models)
            yield self._further_parts[key]

    def _build_from_solution(self, draft: OptionDraft, assignments: Assignments, solution: MipSolution) -> BuiltOption:
        used = [(assignments[one.choice], one if one.shares else None) for one in solution.taken]
        # In the order of the needs: the program's order, and thereby line names, would change with every need.
        names, world = [task.name for task in self._central], self._world
        separate = assign_pool_suffixes([each._replace(part=part) for each, part in used])
        taken = tuple(sorted(separate, key=lambda each: names.index(each.task.name)))
        stocks = zip(self._site.stocks, solution.machines, strict=True)
        monthly = tuple((stock, tuple(counts[year] for year in self._years)) for stock, counts in stocks)
        own = world.settler.write_part(monthly, taken, draft.name)
        picks = {each.pick.task.name: each.pick for each in taken if each.pick is not None}.values()
        rented = [self._mark_overflow_share(world.writer.write_rented(pick), pick) for pick in picks]
        further = self._plan_further_sites({each.task.name: each.model for each in taken})
        part = join_parts([own, *rented, self._edge, *further])
        regions = sorted({pick.host.where.region for pick in picks})
        draft = draft._replace(regions=(*draft.regions, *regions))
        return world.assembler.build(draft, part, (self._site.where,), whole=True)

    @staticmethod
    def _mark_overflow_share(part: OptionPart, pick: InstanceChoice) -> OptionPart:
        """Set the served share of rented machines that serve the load above another part of it."""
        above = pick.task.demand
        if above is None or not above.elsewhere:
            return part
        whole, years = above._replace(elsewhere=()), split_into_years(len(above.growth))
        shares = tuple(sum(map(above.requests, year)) / sum(map(whole.requests, year)) for year in years)
        serving = (one._replace(part=0.0) if isinstance(one, ProvisionedLoad) else one for one in part.serving)
        return part._replace(serving=tuple(serving), pools=tuple(replace(pool, shares=shares) for pool in part.pools))

    def _tighten_limits(
        self, limits: SolverLimits, draft: OptionDraft, assignments: Assignments, solution: MipSolution
    ) -> SolverLimits:
        budget, usd, terms = self._needs.budget, self._world.usd, draft.terms or ()

        def sum_stocks(field: str) -> float:
            each = zip(self._kinds, solution.machines, strict=True)
            return sum(kind.sum_over_years(getattr(kind, field), counts) for kind, counts in each)

        # Limits fall from what the machines use: a limit with room below it would need several rounds.
        over = sum(term.sum for term in terms if is_capex(term)) - budget.capex * usd
        if over > 0 and limits.capex_usd is not None:
            least = min(sum_stocks("capex_usd"), limits.capex_usd)
            limits = limits._replace(capex_usd=least - over * TIGHTENING_MARGIN)
        for miss in draft.misses:
            if miss.constraint in ("power_kw", "rack_units"):
                excess = (float(miss.value or 0) - float(miss.limit or 0)) * TIGHTENING_MARGIN
                each = [getattr(kind, miss.constraint) for kind in self._kinds]
                years = zip(*solution.machines, strict=True)
                used = max(sum(one * count for one, count in zip(each, counts, strict=True)) for counts in years)
                least = min(used, getattr(limits, miss.constraint) or 0.0)
                limits = limits._replace(**{miss.constraint: least - excess})
        monthly = sum(term.sum / len(term.flow) for term in terms if is_monthly(term))
        if budget.per_month is not None and (over := monthly - budget.per_month * usd) > 0:
            used = (assignments[one.choice].choice for one in solution.taken)
            counted = sum({choice.task: choice.usd_per_month for choice in used}.values())
            counted += sum_stocks("usd_per_month")
            least = min(counted, limits.usd_per_month or counted)
            limits = limits._replace(usd_per_month=least - over * TIGHTENING_MARGIN)
        return limits

    def _is_near_task(self, task: WorkloadTask) -> bool:
        """True if the site is inside the place that must serve the task."""
        place: ResidencyBounds = ((task.place,),) if task.place is not None else ()
        return is_country_inside(self._world.catalog, place, self._site.country)

    def _on_site_assignments(self, task: WorkloadTask) -> list[TaskAssignment]:
        if not self._is_near_task(task):
            return []
        followed = task.follows is not None or task.name in self._follows.values()
        found = self._site.list_assignments(task, self._models_for(task), followed=followed)
        return owned.add_shared_spares(found, self._site.owned_types)

    def _models_for(self, task: WorkloadTask) -> ModelOptions:
        return self._models.get(task.follows if task.follows is not None else task.name, ())

    def _cloud_assignments(
        self, provider: str, task: WorkloadTask, renter: InstanceSelector
    ) -> Iterable[TaskAssignment]:
        """Yield rented machines for the whole load, or for the load above a base."""
        followed = task.name in self._follows.values()
        models, separate = self._models_for(task), task.follows is not None or followed
        for group in [(model,) for model in models] if separate else [models]:
            pick = renter.best_choice(provider, task, group)
            if pick is not None and not pick.misses:
                model, usd = get_model_id(pick.model), pick.usd / self._needs.budget.horizon_months
                choice = AssignmentChoice(task.name, model, None, pick.cost, usd, outside=pick.task.name)
                yield TaskAssignment(choice, task, pick.model, pick=pick)
        if task.demand is not None and not followed:
            yield from self._overflow_assignments((provider, renter), task, task.demand)

    def _overflow_assignments(
        self, source: tuple[str, InstanceSelector], task: WorkloadTask, demand: Demand
    ) -> Iterable[TaskAssignment]:
        """Rent machines for the load above the mean, or above the capacity of some of the owned machines."""
        found = list[TaskAssignment]()
        relaxed = replace(demand.workload, slo=replace(demand.workload.slo, availability=None))
        for each in self._on_site_assignments(task):
            if each.steady is None or each.choice.machine is None or owned.count_broken_limits(each):
                continue
            mean = tuple(demand.levels[1].rate * growth for growth in demand.growth)
            # On-site spares back the peaks; a load that is rented for months has its own spares.
            found += self._split_load(source, each, demand._replace(workload=relaxed), (ABOVE_MEAN_SUFFIX, mean))
            for machines, name in self._owned_base_loads(each.choice.machine):
                carried = tuple(each.steady.requests_per_s.value * machines[year] for year in self._years)
                found += self._split_load(source, each, demand, (f"-above-{name}", carried))
        yield from owned.add_shared_spares(found, self._site.owned_types)

    def _owned_base_loads(self, machine: str) -> Iterable[tuple[tuple[int, ...], str]]:
        """Yield 1, 2, ... owned machines of a type in each year, as long as they exist, with a name."""
        most = [stock.kind.most for stock in self._site.stocks if stock.kind.machine == machine and stock.kind.most]
        present = tuple(map(sum, zip(*most, strict=True)))
        for count in range(1, max(present, default=0) + 1):
            yield tuple(min(count, one) for one in present), f"{count}-{machine}"

    def _split_load(
        self,
        source: tuple[str, InstanceSelector],
        assigned: TaskAssignment,
        demand: Demand,
        base: tuple[str, tuple[float, ...]],
    ) -> Iterable[TaskAssignment]:
        (name, kept), whole, (provider, renter) = base, assigned.task.demand, source
        steady, machine, above = assigned.steady, assigned.choice.machine, demand.excess_over(kept)
        if whole is None or steady is None or machine is None or above.peak <= 0:
            return
        rest = assigned.task._replace(name=f"{assigned.task.name}{name}", demand=above, workload=above.workload)
        pick = renter.best_choice(provider, rest, (assigned.model,))
        if pick is not None and not pick.misses:
            split = assigned._replace(pick=pick, kept=kept)
            choice = owned.build_steady_choice(assigned.task.name, whole, assigned.model, steady, machine, kept)
            work = zip(assigned.choice.work_usd, self._spans, strict=True)
            done = tuple(usd * sum(split.served_share(whole, m) for m in year) / len(year) for usd, year in work)
            choice = choice._replace(outside=rest.name, usd=pick.cost, work_usd=done)
            yield split._replace(choice=choice._replace(usd_per_month=pick.usd / self._needs.budget.horizon_months))


def _rank_by_weakness(demand: Demand, _model: ModelSpec | None, steady: SteadyCapacity) -> tuple[float, float, float]:
    """Rank by broken and uncertain limits, machine share at the peak, throughput (descending)."""
    share = owned.compute_machine_share(demand.peak_at_horizon, steady)
    return steady.weakness, share, -steady.requests_per_s.value


def assign_pool_suffixes(assignments: list[TaskAssignment]) -> Assignments:
    """Name the pools of a shared load: the one with the largest last shares has the task's name, others a suffix."""
    found, first = list[TaskAssignment](), set[str]()
    for each in sorted(
        assignments, key=lambda one: one.part.shares[::-1] if one.part is not None else (), reverse=True
    ):
        inside = each.choice.machine is not None
        found.append(each._replace(suffix=f"-{each.choice.machine}") if inside and each.task.name in first else each)
        first.update([each.task.name] if inside else [])
    return tuple(found)


def _select_for_small_site(assignments: Assignments) -> Assignments:
    """Return what needs few machines, which use the network of the building; nothing if a task needs more."""
    fitting = list[TaskAssignment]()
    tasks = set[str]()
    served = set[str]()
    for assignment in assignments:
        task = assignment.task.name
        tasks.add(task)
        if assignment.choice.most_machines <= BUILDING_NETWORK_MACHINES:
            fitting.append(assignment)
            served.add(task)
    if served != tasks:
        return ()
    return tuple(fitting)


def _count_bought(option: BuiltOption) -> int:
    bought = 0
    for fleet in option.draft.fleets:
        if fleet.purchase == "bought":
            bought += fleet.peak
    return bought
