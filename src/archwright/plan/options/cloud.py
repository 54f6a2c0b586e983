"""Options at clouds: rented machines, operated by the organisation or by the cloud's managed platform.

Every allowed cloud gives an option. A provider with a surcharge row gives a second option at on-demand prices, because
no row states the surcharge on committed machines. Workloads of many sites (plants, branches) run on machines that are
bought for these sites, in addition to rented machines.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from archwright.catalog.tables.cost_records import PlatformSurcharge
from archwright.contract.estimate import Estimate
from archwright.contract.number_format import format_share
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.cost.facility_costs import compute_further_place_usd
from archwright.plan.cost.prices import format_source
from archwright.plan.demand.data_residency import collect_all_bounds, is_region_inside
from archwright.plan.demand.model_selection import get_model_id
from archwright.plan.options.cloud_instances import (
    BETTER_SHARE_OF_ALL,
    BETTER_SHARE_OF_OWN,
    InstanceChoice,
    InstanceSelection,
    InstanceSelector,
)
from archwright.plan.options.edge_sites import make_sites_miss
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts, list_fleet_places, rank_by_cost
from archwright.plan.violations import build_violation

DEFAULT_CLOUDS = 3
MANAGED = "managed-"


def choose_clouds(world: PlanningContext, ledger: PlanProvenance) -> tuple[str, ...]:
    """Return the clouds that the needs name, else those with the most offers in the catalog."""
    sold = Counter(offer.provider for offer in world.catalog.offers)
    named = world.needs.placement.clouds
    if named is not None:
        return tuple(sorted(provider for provider in named if provider in sold))
    largest = tuple(sorted(name for name, _ in sold.most_common(DEFAULT_CLOUDS)))
    ledger.add_assumptions(f"placement.clouds: {', '.join(largest)}, the clouds with the most offers in the catalog")
    if others := [name for name in sold if name not in largest and _has_machines_inside(world, name)]:
        ledger.add_assumptions(f"placement.clouds may name other clouds with valid prices: {', '.join(sorted(others))}")
    return largest


def _has_machines_inside(world: PlanningContext, provider: str) -> bool:
    """True if the provider sells machines with accelerators where all data may be; most such clouds sell no storage."""
    bounds, offers = collect_all_bounds(world.needs), world.catalog.sold_offers(provider)
    regions = {offer.region for offer in offers if offer.accelerator is not None}
    return any(is_region_inside(world.catalog, bounds, provider, region) for region in regions)


class CloudPlanner:
    def __init__(self, world: PlanningContext, ledger: PlanProvenance, tasks: tuple[WorkloadTask, ...]) -> None:
        self._world, self._needs, self._catalog, self._ledger = world, world.needs, world.catalog, ledger
        self._edge_tasks = tuple(task for task in tasks if task.workload.sites)
        self._edge = world.plan_sites(tasks)
        self._tasks = tuple(self._follow_site_model(task) for task in tasks if not task.workload.sites)
        self._on_demand = InstanceSelector(world.needs, world.catalog, world.sizer, commitments=False)

    def _follow_site_model(self, task: WorkloadTask) -> WorkloadTask:
        """Fix the model of a task that follows a task at own sites."""
        leader = next((one for one in self._edge_tasks if one.name == task.follows), None)
        if leader is None:
            return task
        chosen = self._edge.models.get(leader.workload.name)
        models = tuple(model for model in leader.models if model is not None and model.id == chosen)
        return task._replace(follows=None, models=models)

    def options(self, providers: tuple[str, ...]) -> Iterable[BuiltOption]:
        complete = []
        for provider in providers:
            draft, found = OptionDraft(f"cloud-{provider}", "cloud", provider), self._select(provider)
            if len(found.picks) == len(self._tasks):
                complete.append(provider)
                picked = self._variants(provider, found)
                yield min((self._build_option(draft, one, self._world.renter) for one in picked), key=rank_by_cost)
                continue
            draft = draft._replace(notes=self._describe_listed_regions(provider))
            yield self._build_option(draft, found, self._world.renter)
            # Give up one pin: the same accelerators in other regions, other accelerators in the same regions.
            pins = self._needs.placement
            for pin, wanted in (("regions", pins.regions), ("accelerators", pins.accelerators)):
                if pins.accelerators is not None and wanted is not None:
                    yield from self._relaxed_option(provider, pin, wanted)
        named = self._needs.placement.clouds
        if not complete and named is not None:
            for provider in sorted({offer.provider for offer in self._catalog.offers} - set(providers)):
                yield from self._relaxed_option(provider, "clouds", named)
        for provider in complete:
            yield from self._managed_options(provider)

    def price_models(self, draft: OptionDraft, task: WorkloadTask) -> dict[str, float]:
        """Estimate the cost in USD over the horizon of a task by each model that keeps all limits."""
        renter = self._on_demand if draft.name.startswith(MANAGED) else self._world.renter
        return renter.price_models(draft.provider, task)

    def _select(self, provider: str, region: str | None = None, **pins: Any) -> InstanceSelection:
        """Select machines; `pins`: changed fields of `placement`."""
        if not pins:
            renter = self._world.renter if region is None else self._world.renter.limit_to(region)
            return renter.select_instances(provider, self._tasks)
        return self._selector_for(region, **pins).select_instances(provider, self._tasks)

    def _selector_for(self, region: str | None = None, **pins: Any) -> InstanceSelector:
        needs = replace(self._needs, placement=replace(self._needs.placement, **pins))
        return InstanceSelector(needs, self._catalog, self._world.sizer, region=region)

    def _variants(self, provider: str, found: InstanceSelection) -> tuple[InstanceSelection, ...]:
        """Return the cheapest machines, also without spot and per single region; more purchase options only add."""
        spots: list[dict[str, Any]] = [{}, {"spot": False}] if self._needs.placement.spot else [{}]
        variants = [found, *(self._select(provider, **spot) for spot in spots[1:])]
        regions = {pick.host.where.region for one in variants for pick in one.picks}
        if len(regions) > 1:
            variants += [self._select(provider, region, **spot) for region in sorted(regions) for spot in spots]
        whole = [one for one in variants if len(one.picks) == len(self._tasks)]
        return tuple({tuple(_make_placement_key(pick) for pick in one.picks): one for one in reversed(whole)}.values())

    def _describe_listed_regions(self, provider: str) -> tuple[str, ...]:
        """Return a note on the regions where the provider lists the pinned accelerators, with or without a price."""
        pins, catalog = self._needs.placement.accelerators, self._catalog
        wanted = catalog.accelerator_ids(pins or ())
        types = {o.instance_type for o in catalog.offers if o.provider == provider and o.accelerator in wanted}
        rows = (row for row in catalog.availability if row.provider == provider and row.instance_type in types)
        regions = sorted({row.region for row in rows})
        return (f"{', '.join(pins or ())} at {provider}: in {', '.join(regions)}",) if regions else ()

    def _relaxed_option(self, provider: str, pin: str, wanted: tuple[str, ...]) -> Iterable[BuiltOption]:
        """Yield an option that misses only this pin, if the provider has one; the option has no regions of its own."""
        renter = self._selector_for(**{"accelerators" if pin == "accelerators" else "regions": None})
        found = renter.select_instances(provider, self._tasks)
        if len(found.picks) < len(self._tasks):
            return
        regions = {pick.host.where.region for pick in found.picks}
        devices = {device.id for pick in found.picks if (device := pick.host.machine.accelerator) is not None}
        actual = {"regions": regions, "accelerators": devices, "clouds": {provider}}[pin]
        note = f"possible regions: {', '.join(sorted(regions))}"
        draft = OptionDraft(f"cloud-{provider}-other-{pin}", "cloud", provider, notes=(note,))
        built = self._build_option(draft, found, renter)
        misses = [build_violation(pin, ", ".join(sorted(actual)) or "host processors", ", ".join(wanted))]
        pinned = self._needs.placement.regions
        if pin == "clouds" and pinned is not None and not regions & set(pinned):
            # A region name belongs to one provider, so another provider also means another region.
            misses.append(build_violation("regions", ", ".join(sorted(regions)), ", ".join(pinned)))
        yield built._replace(draft=built.draft._replace(regions=(), misses=(*misses, *built.draft.misses)))

    def _build_option(
        self,
        draft: OptionDraft,
        found: InstanceSelection,
        renter: InstanceSelector | None = None,
        extra: tuple[CashFlow, ...] = (),
    ) -> BuiltOption:
        # If residency forbids a place for some data, the option names no machines.
        outside = any(miss.constraint == "residency" for miss in found.misses)
        rented = OptionPart() if outside else join_parts(self._world.writer.write_rented(pick) for pick in found.picks)
        where = sort_main_first(rented)
        part = join_parts([rented._replace(terms=(*rented.terms, *extra)), OptionPart() if outside else self._edge])
        part = part._replace(notes=(*found.notes, *part.notes))
        # Machines at own sites alone are no cloud option.
        missing = () if self._tasks else tuple(make_sites_miss(task, "a cloud region") for task in self._edge_tasks)
        regions = tuple(sorted({place.region for place in where}))
        notes = [*draft.notes, *self._describe_spread_regions(draft.provider, regions)]
        for task in self._edge_tasks:
            sites = f"on machines bought for its sites ({', '.join(task.workload.sites)})"
            notes.append(f"{task.name}: {sites}; other workloads use rented machines")
        notes += self._describe_contract_prices(found)
        if renter is not None:
            picks = found.picks
            notes += [note for one in picks for note in self._describe_better_specialist(draft.provider, one, renter)]
            saved = [(usd, region) for usd, region in map(renter.remote_saving, found.picks) if usd > 0]
            if saved:
                less = self._world.format_amount(sum(usd for usd, _ in saved))
                remote = ", ".join(sorted({region for _, region in saved}))
                notes.append(f"far from the users, the same machines cost {less} less: {remote}")
        draft = draft._replace(regions=regions, misses=(*found.misses, *missing), notes=tuple(notes))
        whole = len(found.picks) == len(self._tasks) and not outside
        return self._world.assembler.build(draft, part, where, whole=whole)

    def _describe_contract_prices(self, found: InstanceSelection) -> Iterable[str]:
        """Yield what jobs cost on their terms, with the list price beside it."""
        for pick in found.picks:
            kinds = [tranche.kind for tranche in pick.tranches]
            if pick.steady is None and set(kinds) != {"on-demand"}:
                paid, listed = map(self._world.format_amount, (pick.usd, pick.list_usd))
                yield f"{pick.task.name}: {paid} over the horizon at {', '.join(kinds)} prices, {listed} at list prices"

    def _describe_spread_regions(self, provider: str, regions: tuple[str, ...]) -> Iterable[str]:
        catalog, bounds = self._catalog, collect_all_bounds(self._needs)
        sold = dict.fromkeys(offer.region for offer in catalog.offers if offer.provider == provider)
        if len(regions) > 1:
            fixed = self._world.format_amount(
                compute_further_place_usd(self._needs, catalog, provider) * (len(regions) - 1)
            )
            why = f"the machines save more than the {fixed} that the further regions cost over the horizon"
            if not any(is_region_inside(catalog, bounds, provider, region) for region in sold):
                why = "no region is inside the residency of all workloads' data"
            yield f"spread over {', '.join(regions)}: {why}"

    def _describe_better_specialist(
        self, provider: str, pick: InstanceChoice, renter: InstanceSelector
    ) -> Iterable[str]:
        """Yield what the cheapest model of a higher score would cost that the choice left out because of its size."""
        named = [model.id for model in pick.task.better if model is not None]
        if pick.model is not None and pick.model.id in named:
            limits = f"{format_share(BETTER_SHARE_OF_OWN)} more, or {format_share(BETTER_SHARE_OF_ALL)} of all machines"
            why = f"it has a higher score and costs at most {limits}"
            yield f"{pick.task.name}: {pick.model.id} in place of a small model: {why}"
            return
        found = renter.best_choice(provider, pick.task, pick.task.better) if named else None
        if found is not None and found.model is not None and pick.model is not None:
            more = self._world.format_amount((found.usd - pick.usd) / self._needs.budget.horizon_months)
            instead = f"machines for {found.model.id} instead of {pick.model.id}"
            yield f"{pick.task.name}: {instead} cost {more} more per month"

    def _managed_options(self, provider: str) -> Iterable[BuiltOption]:
        """Yield the option on the provider's managed platform, if a row states its surcharge on machines."""
        rows = (row for row in self._catalog.surcharges if row.platform.split()[0].lower() == provider)
        for row in [row for row in rows if row.low is not None][:1]:
            built = min(self._list_managed(provider, row), key=rank_by_cost)
            rise = f"{format_share(row.low or 0.0)} to {format_share(row.high or 0.0)}"
            surcharge = f"{rise} surcharge on machines ({row.source})"
            note = f"{row.platform}: {surcharge}; on-demand prices only"
            yield built._replace(draft=built.draft._replace(notes=(note, *built.draft.notes)))

    def _list_managed(self, provider: str, row: PlatformSurcharge) -> Iterable[BuiltOption]:
        """Yield the managed platform with the cheapest machines, then in each single region of these machines."""
        draft, found = OptionDraft(f"{MANAGED}{provider}", "cloud", provider), [self._on_demand]
        world, spread = self._world, self._on_demand.select_instances(provider, self._tasks)
        regions = sorted({pick.host.where.region for pick in spread.picks})
        found += map(self._on_demand.limit_to, regions if len(regions) > 1 else ())
        for selector in found:
            chosen = selector.select_instances(provider, self._tasks)
            if len(chosen.picks) == len(self._tasks):
                part = join_parts(world.writer.write_rented(pick) for pick in chosen.picks)
                yield self._build_option(draft, chosen, extra=self._price_surcharge(part, row))

    def _price_surcharge(self, part: OptionPart, row: PlatformSurcharge) -> tuple[CashFlow, ...]:
        low, high = row.low or 0.0, row.high or 0.0
        if high <= 0:
            return ()
        share = (low + high) / 2
        driver = self._ledger.create_driver(
            Estimate(value=share, low=low or share / 2, high=high, unit="share"),
            f"surcharge.{row.platform}".replace(" ", "-").lower(),
            "quoted",
            "surcharge of the managed platform, as a share of the machines' price",
            facts=(f"{row.platform}, {row.component}: {format_source(row)}",),
        )
        terms = []
        for term in part.terms:
            line, flow = f"{row.platform} on {term.line}", tuple(usd * share for usd in term.flow)
            drivers = (*term.drivers, driver.basis)
            terms.append(term._replace(line=line, category="platform", flow=flow, drivers=drivers))
        return tuple(terms)


def _make_placement_key(pick: InstanceChoice) -> tuple[object, ...]:
    kinds = tuple((tranche.kind, tranche.machines) for tranche in pick.tranches)
    return pick.host.where, pick.host.machine.id, get_model_id(pick.model), kinds


def sort_main_first(part: OptionPart) -> tuple[Location, ...]:
    """Sort places by machines, the most first; the control plane and its data are at the first place."""
    weight = Counter[Location]()
    for fleet in part.fleets:
        weight[fleet.where] += round(sum(fleet.machines) * 1000)
    return tuple(sorted(list_fleet_places(part.fleets), key=lambda where: (-weight[where], where.region)))
