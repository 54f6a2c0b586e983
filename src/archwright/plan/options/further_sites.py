"""Further central sites: each serves its part of the load with its own machines, spares, power and rack limits.

A workload is split between the main site and the further sites that serve it: by the origin of its traffic, else
evenly. Every site serves the model that the main site serves. A job runs at the main site, or with the load it follows.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import FurtherSite, Needs
from archwright.contract.number_format import format_share
from archwright.contract.record import replace
from archwright.plan.capacity.candidates import SizingCache, WorkloadTask
from archwright.plan.demand.data_residency import collect_bounds, format_bounds, is_country_inside
from archwright.plan.demand.forecast import split_into_years
from archwright.plan.options.edge_sites import rename_pools
from archwright.plan.options.hardware_schedule import HardwareScheduler
from archwright.plan.options.option_builder import OptionPart
from archwright.plan.options.owned_hardware import OnPremisesSite, TaskAssignment
from archwright.plan.solver.integer_program import IntegerProgram
from archwright.plan.solver.problem import SolverLimits, prune_dominated
from archwright.plan.violations import build_violation

MAIN = ""
# Part of a site's power and space that machines may use; storage, switches and servers need the rest.
MACHINE_SHARE = 0.95

Tasks = tuple[WorkloadTask, ...]


def split_load(needs: Needs, catalog: Catalog, task: WorkloadTask) -> dict[str, float]:
    """Return the share of a task's load per central site; MAIN is the main site."""
    main, name = needs.placement.site, task.workload.name
    sites = {MAIN: main.country if main is not None else needs.organisation.country}
    sites |= {one: site.country for one, site in needs.placement.sites.items() if name in (site.workloads or (name,))}
    origins = {task.place: 1.0} if task.place is not None else task.workload.regions or {MAIN: 1.0}
    shares, whole = dict.fromkeys(sites, 0.0), sum(origins.values())
    for origin, share in origins.items():
        near = [one for one, country in sites.items() if origin != MAIN and catalog.is_inside(country, origin)]
        serving = near or ([MAIN] if task.place is not None else list(sites))
        for one in serving:
            shares[one] += share / whole / len(serving)
    return {one: share for one, share in shares.items() if share > 0}


def assign_tasks(needs: Needs, catalog: Catalog, tasks: Tasks) -> dict[str, Tasks]:
    """Return the tasks of each central site, with their part of the load."""
    split = {task.name: split_load(needs, catalog, task) for task in tasks if task.demand is not None}
    found: dict[str, list[WorkloadTask]] = {name: [] for name in (MAIN, *needs.placement.sites)}
    for task in tasks:
        if task.demand is None:
            leader = split.get(task.follows or "", {MAIN: 1.0})
            found[MAIN if MAIN in leader else max(leader, key=lambda one: leader[one])].append(task)
            continue
        for name, share in split[task.name].items():
            found[name].append(task._replace(demand=task.demand.scaled_by(share)))
    return {name: tuple(here) for name, here in found.items()}


class FurtherSitePlanner(NamedTuple):
    needs: Needs
    catalog: Catalog
    sizer: SizingCache
    settler: HardwareScheduler

    def plan_site(self, name: str, tasks: Tasks, chosen: Mapping[str, ModelSpec | None]) -> OptionPart:
        """Plan the machines of one site; `chosen`: model of each task at the main site."""
        site = self.needs.placement.sites[name]
        bounds = [collect_bounds(self.needs, task.workload) for task in tasks]
        outside = [one for one in bounds if not is_country_inside(self.catalog, one, site.country)]
        if outside:
            return OptionPart(misses=(build_violation("residency", site.country, format_bounds(outside[0])),))
        placement = replace(self.needs.placement, site=site, sites={}, owned=())
        needs = replace(self.needs, placement=placement)
        house = OnPremisesSite(needs, self.catalog, self.sizer, name=name)
        follows = {task.name: task.follows for task in tasks if task.follows is not None}
        models = {task.name: (chosen[task.name],) if task.name in chosen else task.models for task in tasks}
        assignments = list[TaskAssignment]()
        for task in tasks:
            followed = task.follows is not None or task.name in follows.values()
            found = house.list_assignments(task, models.get(task.follows or task.name, ()), followed=followed)
            if not found:
                return OptionPart(misses=(build_violation(f"{task.name}.model", name, "a machine that holds it"),))
            assignments += found
        return self._solve(site, house, tuple(assignments), follows)

    def _solve(
        self,
        site: FurtherSite,
        house: OnPremisesSite,
        assignments: tuple[TaskAssignment, ...],
        follows: Mapping[str, str],
    ) -> OptionPart:
        kinds = tuple(stock.kind for stock in house.stocks)
        choices = prune_dominated(tuple(each.choice for each in assignments), kinds, follows)
        power, units = (None if one is None else one * MACHINE_SHARE for one in (site.power_kw, site.rack_units))
        for limits in (SolverLimits(power_kw=power, rack_units=units), SolverLimits()):
            solution = IntegerProgram(choices, kinds, follows).solve(limits)
            if solution is not None:
                break
        else:
            return OptionPart(misses=(build_violation("model", None, "one model for a workload and its followers"),))
        by_choice = {each.choice: each for each in assignments}
        taken = tuple(by_choice[choices[one.choice]] for one in solution.taken)
        lengths = [len(year) for year in split_into_years(self.needs.budget.horizon_months)]
        monthly = tuple(
            (stock, tuple(count for count, length in zip(counts, lengths, strict=True) for _ in range(length)))
            for stock, counts in zip(house.stocks, solution.machines, strict=True)
        )
        part = self.settler.at_site(site).write_part(monthly, taken, house.where.region)
        return rename_pools(part, f"-{house.where.region.partition(' ')[2]}".lower())


def describe_split(tasks: Tasks, needs: Needs, catalog: Catalog) -> Iterable[str]:
    for task in tasks if needs.placement.sites else ():
        shares = split_load(needs, catalog, task) if task.demand is not None else {}
        if len(shares) > 1:
            named = (f"{format_share(share)} at {one or 'the main site'}" for one, share in shares.items())
            yield f"{task.name}: {', '.join(named)}; if a site fails, its share is lost until the load is moved"
