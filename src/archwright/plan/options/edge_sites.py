"""Workloads that run at many places of one's own, such as plants: machines at each site, bought.

Each site carries its share of the load on machines of one type, the cheapest whose draw the site can take. Sites are
spread over their countries in turn.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, SiteGroup
from archwright.contract.plan import Miss
from archwright.contract.record import replace
from archwright.plan.accounting.fleet import Where
from archwright.plan.capacity.candidates import Hosts, Sizer, Task
from archwright.plan.demand.data_residency import bounds_of, country_inside, in_words
from archwright.plan.options.hardware_schedule import Settler, counts_of
from archwright.plan.options.owned_hardware import Stock, Way, broken, steady_choice
from archwright.plan.options.pool_writer import Part, joined
from archwright.plan.solver.problem import Kind

WATTS = 1e3


class Spread(NamedTuple):
    """One country's sites of a group."""

    country: str
    sites: int


def at_sites(task: Task) -> bool:
    return bool(task.workload.sites)


def nowhere_else(task: Task, where: str) -> Miss:
    """What an option says that has no machines at the sites."""
    return Miss(constraint=f"{task.name}.sites", value=where, limit="at every site")


def spread(group: SiteGroup, home: str) -> tuple[Spread, ...]:
    countries = group.countries or (home,)
    counts = Counter(countries[index % len(countries)] for index in range(group.count))
    return tuple(Spread(country, counts[country]) for country in dict.fromkeys(countries) if counts[country])


class Sites:
    """Plans the machines of every site."""

    def __init__(self, needs: Needs, catalog: Catalog, sizer: Sizer, settler: Settler) -> None:
        self._needs, self._catalog, self._sizer, self._settler = needs, catalog, sizer, settler

    def part(self, task: Task) -> Part:
        """One fleet and one pool for each country."""
        groups = [self._needs.sites[name] for name in task.workload.sites]
        total, home = sum(group.count for group in groups), self._needs.organisation.country
        held = []
        for name, group in zip(task.workload.sites, groups, strict=True):
            for one in spread(group, home):
                held.append(self._country(_shared(task, total), (name, group), one))
        return joined(held)

    def _country(self, task: Task, named: tuple[str, SiteGroup], one: Spread) -> Part:
        name, group = named
        bounds = bounds_of(self._needs, task.workload)
        if not country_inside(self._catalog, bounds, one.country):
            return Part(misses=(Miss(constraint="residency", value=one.country, limit=in_words(bounds)),))
        # A region of its own name: the house may stand in the same country, with a limit of its own.
        where = Where("on-premises", "on-premises", f"{one.country} {name}", one.country)
        months = self._needs.budget.horizon_months
        ways = [
            (stock, way, counts_of((way,), months)) for stock in self._stocks(where) for way in self._ways(task, stock)
        ]
        if not ways:
            return Part(misses=(Miss(constraint=f"{task.name}.sites", value=None, limit="a machine that carries it"),))
        stock, way, counts = min(ways, key=lambda found: self._order(group, found))
        made = self._settler.part(((stock, counts),), (way,), f"{task.name} in {one.country}")
        power = stock.kind.power_kw * counts[-1]
        if group.power_kw is not None and power > group.power_kw:
            made = made._replace(
                misses=(*made.misses, Miss(constraint=f"{task.name}.power_kw", value=power, limit=group.power_kw))
            )
        return _times(made, one)

    def _order(self, group: SiteGroup, found: tuple[Stock, Way, tuple[int, ...]]) -> tuple[bool, int, float]:
        stock, way, counts = found
        power, count = stock.kind.power_kw * counts[-1], counts[-1]
        return (group.power_kw is not None and power > group.power_kw, broken(way), stock.kind.usd[0] * count)

    def _stocks(self, where: Where) -> tuple[Stock, ...]:
        pue = self._catalog.part("pue.average").value
        return tuple(
            Stock(
                host,
                "bought",
                Kind(host.node.id, (host.node.price_usd,), (), (), host.node.power_w / WATTS * pue, 0.0),
            )
            for host in Hosts(self._needs, self._catalog).bought(where)
            if host.node is not None
        )

    def _ways(self, task: Task, stock: Stock) -> list[Way]:
        demand = task.demand
        if demand is None:
            return []
        found = []
        for model in task.models:
            steady = self._sizer.steady(demand, model, stock.host)
            if steady is not None and steady.requests_per_s.value > 0:
                found.append(
                    Way(steady_choice(task.name, demand, model, steady, stock.kind.machine), task, model, steady)
                )
        return found


def _shared(task: Task, sites: int) -> Task:
    """The task as one site sees it."""
    return task._replace(demand=task.demand.part(1 / sites)) if task.demand is not None else task


def _times(part: Part, one: Spread) -> Part:
    """One site's part, for every site of the country."""
    return part._replace(
        terms=tuple(term._replace(flow=tuple(usd * one.sites for usd in term.flow)) for term in part.terms),
        fleets=tuple(
            fleet._replace(machines=tuple(m * one.sites for m in fleet.machines), peak=fleet.peak * one.sites)
            for fleet in part.fleets
        ),
        pools=tuple(
            replace(
                pool,
                name=f"{pool.name}-{one.country.lower()}",
                replicas=pool.replicas * one.sites,
                parallelism=replace(pool.parallelism, data=pool.replicas * one.sites),
            )
            for pool in part.pools
        ),
        purchases=tuple(
            replace(
                bought,
                pool=f"{bought.pool}-{one.country.lower()}",
                machines=bought.machines * one.sites,
                peak=bought.peak * one.sites,
            )
            for bought in part.purchases
        ),
    )
