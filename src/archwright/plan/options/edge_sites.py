"""Workloads that run at many places of one's own, such as plants: machines at each site, bought.

Each site carries its share of the load on machines of one type, the cheapest whose draw the site can take. Sites are
spread over their countries in turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, SiteGroup
from archwright.contract.plan import ConstraintViolation
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.candidates import MachineFinder, SizingCache, WorkloadTask
from archwright.plan.demand.data_residency import collect_bounds, format_bounds, is_country_inside
from archwright.plan.options.hardware_schedule import HardwareScheduler, count_machines_by_month
from archwright.plan.options.option_builder import OptionPart, join_parts
from archwright.plan.options.owned_hardware import (
    HardwareStock,
    TaskAssignment,
    build_steady_choice,
    count_broken_limits,
    require_node,
)
from archwright.plan.solver.problem import MachineSupply
from archwright.plan.violations import build_violation

WATTS_PER_KW = 1e3


class CountrySites(NamedTuple):
    country: str
    sites: int


def runs_at_sites(task: WorkloadTask) -> bool:
    return bool(task.workload.sites)


def make_sites_miss(task: WorkloadTask, where: str) -> ConstraintViolation:
    """What an option says that has no machines at the sites."""
    return build_violation(f"{task.name}.sites", where, "at every site")


def spread_over_countries(group: SiteGroup, home: str) -> tuple[CountrySites, ...]:
    countries = group.countries or (home,)
    counts = Counter(countries[index % len(countries)] for index in range(group.count))
    return tuple(CountrySites(country, counts[country]) for country in dict.fromkeys(countries) if counts[country])


class EdgeSitePlanner:
    def __init__(self, needs: Needs, catalog: Catalog, sizer: SizingCache, settler: HardwareScheduler) -> None:
        self._needs, self._catalog, self._sizer, self._settler = needs, catalog, sizer, settler

    def plan_task(self, task: WorkloadTask) -> OptionPart:
        groups = {name: self._needs.sites[name] for name in task.workload.sites}
        total, home = sum(group.count for group in groups.values()), self._needs.organisation.country
        if task.demand is not None:
            task = task._replace(demand=task.demand.scaled_by(1 / total))
        return join_parts(
            self._plan_country(task, (name, group), one)
            for name, group in groups.items()
            for one in spread_over_countries(group, home)
        )

    def _plan_country(self, task: WorkloadTask, named: tuple[str, SiteGroup], one: CountrySites) -> OptionPart:
        name, group = named
        bounds = collect_bounds(self._needs, task.workload)
        if not is_country_inside(self._catalog, bounds, one.country):
            return OptionPart(misses=(build_violation("residency", one.country, format_bounds(bounds)),))
        # A region of its own name: the house may stand in the same country, with a limit of its own.
        where = Location("on-premises", "on-premises", f"{one.country} {name}", one.country)
        months = self._needs.budget.horizon_months
        ways = [
            (stock, way, count_machines_by_month((way,), months))
            for stock in self._list_stocks(where)
            for way in self._list_assignments(task, stock)
        ]
        if not ways:
            return OptionPart(misses=(build_violation(f"{task.name}.sites", None, "a machine that carries it"),))

        def rank(found: tuple[HardwareStock, TaskAssignment, tuple[int, ...]]) -> tuple[bool, int, float]:
            stock, way, counts = found
            over = group.power_kw is not None and stock.kind.power_kw * counts[-1] > group.power_kw
            return over, count_broken_limits(way), stock.kind.usd[0] * counts[-1]

        stock, way, counts = min(ways, key=rank)
        made = self._settler.write_part(((stock, counts),), (way,), f"{task.name} in {one.country}")
        power = stock.kind.power_kw * counts[-1]
        if group.power_kw is not None and power > group.power_kw:
            made = made._replace(misses=(*made.misses, build_violation(f"{task.name}.power_kw", power, group.power_kw)))
        return _multiply_by_sites(made, one)

    def _list_stocks(self, where: Location) -> tuple[HardwareStock, ...]:
        pue, found = self._catalog.parameter("pue.average").value, list[HardwareStock]()
        for host in MachineFinder(self._needs, self._catalog).list_purchasable(where):
            node = require_node(host)
            supply = MachineSupply(node.id, (node.price_usd,), (), (), node.power_w / WATTS_PER_KW * pue, 0.0)
            found.append(HardwareStock(host, "bought", supply))
        return tuple(found)

    def _list_assignments(self, task: WorkloadTask, stock: HardwareStock) -> Iterable[TaskAssignment]:
        for model in task.models if task.demand is not None else ():
            steady = self._sizer.steady(task.demand, model, stock.host) if task.demand is not None else None
            if task.demand is not None and steady is not None and steady.requests_per_s.value > 0:
                choice = build_steady_choice(task.name, task.demand, model, steady, stock.kind.machine)
                yield TaskAssignment(choice, task, model, steady)


def _multiply_by_sites(part: OptionPart, one: CountrySites) -> OptionPart:
    times, suffix = one.sites, f"-{one.country.lower()}"
    fleets, pools, purchases = [], [], []
    for fleet in part.fleets:
        fleets.append(fleet._replace(machines=tuple(m * times for m in fleet.machines), peak=fleet.peak * times))
    for pool in part.pools:
        replicas = pool.replicas * times
        parallelism = replace(pool.parallelism, data=replicas)
        pools.append(replace(pool, name=f"{pool.name}{suffix}", replicas=replicas, parallelism=parallelism))
    for bought in part.purchases:
        machines, peak = bought.machines * times, bought.peak * times
        purchases.append(replace(bought, pool=f"{bought.pool}{suffix}", machines=machines, peak=peak))
    terms = tuple(term._replace(flow=tuple(usd * times for usd in term.flow)) for term in part.terms)
    return part._replace(terms=terms, fleets=tuple(fleets), pools=tuple(pools), purchases=tuple(purchases))
