"""Options at clouds: rented machines run by oneself, or by the cloud's managed platform at its surcharge.

Every allowed cloud gives an option; one per provider with a surcharge row gives a second one, at on-demand prices:
what a platform asks for promised machines no row says. Workloads of many sites (plants, branches) run on machines that
are bought for the sites, beside whatever is rented.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.catalog.tables.cost_records import PlatformSurcharge
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.record import replace
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.demand.data_residency import collect_all_bounds, is_region_inside
from archwright.plan.demand.model_selection import format_scores, get_model_id
from archwright.plan.options.cloud_instances import InstanceChoice, InstanceSelection, InstanceSelector
from archwright.plan.options.edge_sites import EdgeSitePlanner, make_sites_miss, runs_at_sites
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts, list_fleet_places
from archwright.plan.violations import build_violation

DEFAULT_CLOUDS = 3


def choose_clouds(world: PlanningContext, ledger: PlanProvenance) -> tuple[str, ...]:
    """The clouds the needs name, else those with the most offers in the catalog."""
    sold = Counter(offer.provider for offer in world.catalog.offers)
    named = world.needs.placement.clouds
    if named is not None:
        return tuple(sorted(provider for provider in named if provider in sold))
    largest = tuple(sorted(name for name, _ in sold.most_common(DEFAULT_CLOUDS)))
    ledger.add_assumptions(f"placement.clouds: {', '.join(largest)}, the clouds with the most offers in the catalog")
    return largest


class CloudPlanner:
    def __init__(self, world: PlanningContext, ledger: PlanProvenance, tasks: tuple[WorkloadTask, ...]) -> None:
        self._world, self._ledger = world, ledger
        sites = EdgeSitePlanner(world.needs, world.catalog, world.sizer, world.settler)
        self._sited = tuple(task for task in tasks if runs_at_sites(task))
        self._sites = join_parts(sites.plan_task(task) for task in self._sited)
        self._tasks = tuple(self._follow_site_model(task) for task in tasks if not runs_at_sites(task))
        self._listed = InstanceSelector(world.needs, world.catalog, world.sizer, promises=False)

    def _follow_site_model(self, task: WorkloadTask) -> WorkloadTask:
        """What follows a task of the sites runs the model that was chosen there."""
        leader = next((one for one in self._sited if one.name == task.follows), None)
        if leader is None:
            return task
        chosen = self._sites.models.get(leader.workload.name)
        models = tuple(model for model in leader.models if model is not None and model.id == chosen)
        return task._replace(follows=None, models=models)

    def options(self, providers: tuple[str, ...]) -> Iterable[BuiltOption]:
        whole = []
        for provider in providers:
            draft = OptionDraft(f"cloud-{provider}", "cloud", provider)
            found = self._world.renter.select_instances(provider, self._tasks)
            complete = len(found.picks) == len(self._tasks)
            whole += [provider] if complete else []
            named = draft._replace(notes=() if complete else self._describe_listed_regions(provider))
            every = self._variants(provider, found) if complete else (found,)
            yield min((self._build_option(named, one, (), self._world.renter) for one in every), key=_rank_by_cost)
            if not complete:
                yield from self._options_without_pin(provider)
        if not whole:
            yield from self._other_provider_options(providers)
        for provider in whole:
            for row in self._surcharges(provider):
                yield self._managed_option(provider, row)

    def _variants(self, provider: str, found: InstanceSelection) -> tuple[InstanceSelection, ...]:
        """The cheapest machine of every task; the same without machines that may be taken away; all of it in each of
        the regions that are named so: what a second region takes beside machines is known only of the whole. Whatever
        is allowed in addition adds variants and takes none away.
        """
        needs, variants = self._world.needs, [found]
        kinds = [needs]
        if needs.placement.spot:
            kinds.append(replace(needs, placement=replace(needs.placement, spot=False)))
            variants.append(self._selector_for(kinds[1]).select_instances(provider, self._tasks))
        regions = {pick.host.where.region for one in variants for pick in one.picks}
        if len(regions) > 1:
            for region in sorted(regions):
                variants += [self._selector_for(kind, region).select_instances(provider, self._tasks) for kind in kinds]
        whole = [one for one in variants if len(one.picks) == len(self._tasks)]
        return tuple({tuple(_make_placement_key(pick) for pick in one.picks): one for one in reversed(whole)}.values())

    def _selector_for(self, needs: Needs, region: str | None = None) -> InstanceSelector:
        return InstanceSelector(needs, self._world.catalog, self._world.sizer, region=region)

    def _describe_listed_regions(self, provider: str) -> tuple[str, ...]:
        """Where the provider says it has the pinned accelerators, with or without a price in the catalog."""
        pins, catalog = self._world.needs.placement.accelerators, self._world.catalog
        wanted = catalog.accelerator_ids(pins or ())
        types = {o.instance_type for o in catalog.offers if o.provider == provider and o.accelerator in wanted}
        rows = (row for row in catalog.availability if row.provider == provider and row.instance_type in types)
        regions = sorted({row.region for row in rows})
        return (f"{', '.join(pins or ())} at {provider}: in {', '.join(regions)}",) if regions else ()

    def _options_without_pin(self, provider: str) -> Iterable[BuiltOption]:
        """What the provider has when one pin is given up: the same machines at another place, others at the same."""
        pins = self._world.needs.placement
        if pins.accelerators is not None and pins.regions is not None:
            yield from self._relaxed_option(provider, "regions", pins.regions)
        if pins.accelerators is not None:
            yield from self._relaxed_option(provider, "accelerators", pins.accelerators)

    def _other_provider_options(self, providers: tuple[str, ...]) -> Iterable[BuiltOption]:
        """The providers beside those that are named, in any region where the data may be."""
        named, sold = self._world.needs.placement.clouds, {offer.provider for offer in self._world.catalog.offers}
        for provider in sorted(sold - set(providers)) if named is not None else ():
            yield from self._relaxed_option(provider, "clouds", named or ())

    def _relaxed_option(self, provider: str, pin: str, wanted: tuple[str, ...]) -> Iterable[BuiltOption]:
        """An option that misses that pin alone; none if the provider has nothing even so. It names no own region."""
        needs = self._world.needs
        freed = {"accelerators" if pin == "accelerators" else "regions": None}
        renter = self._selector_for(replace(needs, placement=replace(needs.placement, **freed)))
        found = renter.select_instances(provider, self._tasks)
        if len(found.picks) < len(self._tasks):
            return
        regions = {pick.host.where.region for pick in found.picks}
        devices = {device.id for pick in found.picks if (device := pick.host.machine.accelerator) is not None}
        had = {"regions": regions, "accelerators": devices, "clouds": {provider}}[pin]
        said = f"it would be in {', '.join(sorted(regions))}"
        draft = OptionDraft(f"cloud-{provider}-other-{pin}", "cloud", provider, notes=(said,))
        built = self._build_option(draft, found, (), renter)
        misses = [build_violation(pin, ", ".join(sorted(had)) or "host processors", ", ".join(wanted))]
        pinned = needs.placement.regions
        if pin == "clouds" and pinned is not None and not regions & set(pinned):
            # A region's name belongs to one provider: who leaves the provider leaves the region too.
            misses.append(build_violation("regions", ", ".join(sorted(regions)), ", ".join(pinned)))
        yield built._replace(draft=built.draft._replace(regions=(), misses=(*misses, *built.draft.misses)))

    def _build_option(
        self,
        draft: OptionDraft,
        found: InstanceSelection,
        extra: tuple[CashFlow, ...] = (),
        renter: InstanceSelector | None = None,
    ) -> BuiltOption:
        # Where some data may not be, none of the option's machines are named.
        outside = any(miss.constraint == "residency" for miss in found.misses)
        rented = OptionPart() if outside else join_parts(self._world.writer.write_rented(pick) for pick in found.picks)
        where = sort_main_first(rented)
        part = join_parts([rented._replace(terms=(*rented.terms, *extra)), OptionPart() if outside else self._sites])
        part = part._replace(notes=(*found.notes, *part.notes))
        # Machines at sites alone are no option of a cloud.
        missing = () if self._tasks else tuple(make_sites_miss(task, "a cloud region") for task in self._sited)
        regions = tuple(sorted({place.region for place in where}))
        notes = [*draft.notes, *self._describe_spread_regions(draft.provider, regions)]
        for task in self._sited:
            sites = ", ".join(task.workload.sites)
            notes.append(f"{task.name}: on machines bought for its sites ({sites}); the rest is rented")
        if renter is not None:
            notes += self._describe_better_models(draft.provider, found, renter)
            notes += self._describe_remote_savings(found, renter)
        draft = draft._replace(regions=regions, misses=(*found.misses, *missing), notes=tuple(notes))
        whole = len(found.picks) == len(self._tasks) and not outside
        return self._world.assembler.build(draft, part, where, whole=whole)

    def _describe_spread_regions(self, provider: str, regions: tuple[str, ...]) -> Iterable[str]:
        catalog, bounds = self._world.catalog, collect_all_bounds(self._world.needs)
        sold = dict.fromkeys(offer.region for offer in catalog.offers if offer.provider == provider)
        if len(regions) > 1:
            why = "no single region has the cheapest machine of every workload"
            if not any(is_region_inside(catalog, bounds, provider, region) for region in sold):
                why = "no region is inside what bounds the data of all workloads"
            yield f"spread over {', '.join(regions)}: {why}"

    def _describe_better_models(
        self, provider: str, found: InstanceSelection, renter: InstanceSelector
    ) -> Iterable[str]:
        months = self._world.needs.budget.horizon_months
        for pick in found.picks:
            better = renter.better_model_choice(provider, pick) or renter.cheapest_known_quality(provider, pick)
            if better is not None and better.model is not None and pick.model is not None:
                rated = [(model.id, format_scores(pick.task.workload, model)) for model in (better.model, pick.model)]
                named = [f"{name} ({known or 'not known'})" for name, known in rated]
                more = f"{self._world.format_amount((better.usd - pick.usd) / months)} a month more"
                yield f"{pick.task.name}: {named[0]} instead of {named[1]} takes machines for {more}"

    def _describe_remote_savings(self, found: InstanceSelection, renter: InstanceSelector) -> Iterable[str]:
        saved = [(usd, region) for usd, region in map(renter.remote_saving, found.picks) if usd > 0]
        if saved:
            regions, less = ", ".join(sorted({region for _, region in saved})), sum(usd for usd, _ in saved)
            yield f"far from the users the same machines would take {self._world.format_amount(less)} less: {regions}"

    def _surcharges(self, provider: str) -> tuple[PlatformSurcharge, ...]:
        """Managed platforms of the provider that take a share on top of the machines."""
        rows = self._world.catalog.surcharges
        return tuple(row for row in rows if row.platform.split()[0].lower() == provider and row.low is not None)[:1]

    def _managed_option(self, provider: str, row: PlatformSurcharge) -> BuiltOption:
        draft = OptionDraft(f"managed-{provider}", "cloud", provider)
        found = self._listed.select_instances(provider, self._tasks)
        part = join_parts(self._world.writer.write_rented(pick) for pick in found.picks)
        low, high = row.low or 0.0, row.high or 0.0
        built = self._build_option(draft, found, self._price_surcharge(part, row, (low, high)))
        said = f"{row.platform}: {low:.0%} to {high:.0%} on top of the machines ({row.source}); on-demand prices only"
        return built._replace(draft=built.draft._replace(notes=(said, *built.draft.notes)))

    def _price_surcharge(
        self, part: OptionPart, row: PlatformSurcharge, shares: tuple[float, float]
    ) -> tuple[CashFlow, ...]:
        low, high = shares
        if high <= 0:
            return ()
        share = (low + high) / 2
        basis = self._ledger.create_basis(
            f"surcharge.{row.platform}".replace(" ", "-").lower(),
            "quoted",
            "share on top of the machines' price that the managed platform takes",
            facts=(f"{row.platform}, {row.component}: {row.source}, {row.as_of or 'undated'}",),
        )
        estimate = Estimate(value=share, low=low or share / 2, high=high, unit="share", basis=basis)
        driver = self._ledger.register_driver(estimate)
        terms = []
        for term in part.terms:
            line, flow = f"{row.platform} on {term.line}", tuple(usd * share for usd in term.flow)
            terms.append(term._replace(line=line, category="platform", flow=flow, drivers=(*term.drivers, driver)))
        return tuple(terms)


def _make_placement_key(pick: InstanceChoice) -> tuple[object, ...]:
    kinds = tuple((tranche.kind, tranche.machines) for tranche in pick.tranches)
    return pick.host.where, pick.host.machine.id, get_model_id(pick.model), kinds


def _rank_by_cost(built: BuiltOption) -> tuple[int, float]:
    return len(built.draft.misses), sum(term.sum for term in built.draft.terms or ())


def sort_main_first(part: OptionPart) -> tuple[Location, ...]:
    """The place with the most machines first: there the platform itself and its data are."""
    weight = Counter[Location]()
    for fleet in part.fleets:
        weight[fleet.where] += round(sum(fleet.machines) * 1000)
    return tuple(sorted(list_fleet_places(part.fleets), key=lambda where: (-weight[where], where.region)))
