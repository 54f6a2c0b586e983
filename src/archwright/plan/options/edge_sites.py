"""Workloads that run at many own sites, such as plants, on machines that are bought for each site.

Each site serves its share of the load on the cheapest machine type within the site's power limit. Sites are assigned to
their countries in turn.
"""

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
from archwright.plan.options import owned_hardware as owned
from archwright.plan.options.hardware_schedule import HardwareScheduler, count_machines_by_month
from archwright.plan.options.option_builder import OptionPart, join_parts
from archwright.plan.options.owned_hardware import HardwareStock, TaskAssignment
from archwright.plan.solver.problem import MachineSupply
from archwright.plan.violations import VALID_PRICE, build_violation

WATTS_PER_KW = 1e3
# A stock, its assignment, and the machines per month.
SiteCandidate = tuple[HardwareStock, TaskAssignment, tuple[int, ...]]


class CountrySites(NamedTuple):
    country: str
    sites: int


def make_sites_miss(task: WorkloadTask, where: str) -> ConstraintViolation:
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
        # Its own region name: the main site may be in the same country and has its own limits.
        where = Location("on-premises", "on-premises", f"{one.country} {name}", one.country)
        candidates = list(self._list_candidates(task, where))
        if not candidates:
            able = MachineFinder(self._needs, self._catalog).list_purchasable(where)
            unsold = [node.id for node in map(owned.require_node, able) if not self._catalog.has_valid_price(node)]
            miss = build_violation(f"{task.name}.sites", None, "a machine that carries it")
            stale = build_violation("stale_facts", ", ".join(unsold), VALID_PRICE)
            return OptionPart(misses=(stale if unsold and len(unsold) == len(able) else miss,))

        def rank(candidate: SiteCandidate) -> tuple[bool, int, float]:
            stock, assigned, counts = candidate
            over = group.power_kw is not None and stock.kind.power_kw * counts[-1] > group.power_kw
            return over, owned.count_broken_limits(assigned), stock.kind.usd[0] * counts[-1]

        stock, assigned, counts = min(candidates, key=rank)
        part = self._settler.write_part(((stock, counts),), (assigned,), f"{task.name} in {one.country}")
        node = owned.require_node(stock.host)
        if node.form == "edge" and node.accelerator is not None:
            quote = f"request quotes for a production module or an industrial PC with {node.accelerator}"
            part = part._replace(notes=(*part.notes, f"{task.name}: {node.id} is a developer kit, {quote}"))
        power = stock.kind.power_kw * counts[-1]
        if group.power_kw is not None and power > group.power_kw:
            part = part._replace(misses=(*part.misses, build_violation(f"{task.name}.power_kw", power, group.power_kw)))
        return _multiply_by_sites(part, one)

    def _list_candidates(self, task: WorkloadTask, where: Location) -> Iterable[SiteCandidate]:
        pue, months = self._catalog.parameter("pue.average").value, self._needs.budget.horizon_months
        finder = MachineFinder(self._needs, self._catalog)
        for host in finder.list_purchasable(where):
            node = owned.require_node(host)
            if not (finder.is_suitable(task, host) and self._catalog.has_valid_price(node)):
                continue
            supply = MachineSupply(node.id, (node.price_usd,), (), (), node.power_w / WATTS_PER_KW * pue, 0.0)
            for demand, model, steady in self._sizer.list_steady(task, task.models, host):
                choice = owned.build_steady_choice(task.name, demand, model, steady, node.id)
                assigned = TaskAssignment(choice, task, model, steady)
                yield HardwareStock(host, "bought", supply), assigned, count_machines_by_month((assigned,), months)


def _multiply_by_sites(part: OptionPart, one: CountrySites) -> OptionPart:
    times, fleets, pools = one.sites, [], []
    for fleet in part.fleets:
        fleets.append(fleet._replace(machines=tuple(m * times for m in fleet.machines), peak=fleet.peak * times))
    for pool in part.pools:
        replicas = pool.replicas * times
        pools.append(replace(pool, replicas=replicas, parallelism=replace(pool.parallelism, data=replicas)))
    bought = (replace(one, machines=one.machines * times, peak=one.peak * times) for one in part.purchases)
    terms = tuple(term._replace(flow=tuple(usd * times for usd in term.flow)) for term in part.terms)
    whole = part._replace(terms=terms, fleets=tuple(fleets), pools=tuple(pools), purchases=tuple(bought))
    return rename_pools(whole, f"-{one.country.lower()}")


def rename_pools(part: OptionPart, suffix: str) -> OptionPart:
    pools = (replace(pool, name=f"{pool.name}{suffix}") for pool in part.pools)
    purchases = []
    for bought in part.purchases:
        shared = tuple(f"{name}{suffix}" for name in bought.shared_with)
        purchases.append(replace(bought, pool=f"{bought.pool}{suffix}", shared_with=shared))
    return part._replace(pools=tuple(pools), purchases=tuple(purchases))
