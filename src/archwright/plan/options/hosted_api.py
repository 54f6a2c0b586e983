"""Options with hosted models, paid per token.

Cost per month: requests x (input tokens x input price + output tokens x output price). Batch work with a deadline of
a day pays batch prices. Prompt tokens that many requests share are paid as cached input. A model that is withdrawn
within LEAST_SALE is bought only if no other model passes; a later withdrawal is a note.
Catalog prices come from one source and are checked against a second one; if they differ, the interval covers both.
The catalog states where a provider processes data. If the place is unknown and data are bound to a place, the option is
priced and listed, but not feasible. Non-text work runs on rented machines, at the cheapest allowed cloud.
"""

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import BAND, HostedModel
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TEXT_KINDS, Traffic, Workload
from archwright.contract.number_format import format_exact, format_share
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import USD, OptionDraft
from archwright.plan.accounting.cash_flow import make_varying_flow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.capacity.quotas import check_token_quota
from archwright.plan.capacity.service_levels import check_unverified_availability, check_unverified_latency
from archwright.plan.cost.data_placement import build_option_context
from archwright.plan.cost.facility_costs import compute_further_place_usd
from archwright.plan.cost.prices import format_source
from archwright.plan.demand import data_residency as residency
from archwright.plan.demand import model_selection
from archwright.plan.demand.forecast import Demand, load_driver
from archwright.plan.demand.image_input import add_image_tokens, describe_image_tokens, takes_images
from archwright.plan.demand.model_quality import find_rater
from archwright.plan.options.cloud_instances import InstanceSelection
from archwright.plan.options.edge_sites import make_sites_miss
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts
from archwright.plan.violations import Misses, build_violation

PLACEMENT = "hosted-api"
# Country groups that needs may name, the smaller first; other groups of a provider are mapped to these.
COUNTRY_GROUPS = ("EEA", "APAC")
# Most hosted models are withdrawn within a horizon, announced or not, and a successor serves on. A model that ends
# sooner than this is bought only if no other model passes.
LEAST_SALE = timedelta(days=91)
# Batch interfaces answer within a day.
BATCH_DEADLINE_H = 24.0


class HostedApiPlanner:
    def __init__(
        self, world: PlanningContext, ledger: PlanProvenance, tasks: tuple[WorkloadTask, ...], now: datetime
    ) -> None:
        self._world, self._needs, self._catalog, self._ledger = world, world.needs, world.catalog, ledger
        self._today = now.date()
        self._text = tuple(task for task in tasks if task.demand is not None and task.workload.kind in TEXT_KINDS)
        self._rest = tuple(task for task in tasks if task not in self._text)
        named = (self._needs.placement.regions or (), *(data.residency for data in self._needs.data))
        self._named = frozenset(place for places in named for place in places)

    def options(self, clouds: tuple[str, ...], only: str | None = None) -> Iterable[BuiltOption]:
        """Yield an option for each provider, or for `only` one; other work runs at the cheapest of `clouds`."""
        sold = {model.provider for model in self._catalog.hosted}
        named = set(self._needs.placement.clouds or ()) & sold
        others = self._select_other_machines(clouds if "cloud" in self._needs.placement.allow else ())
        for provider in ([only] if only else sorted(named or sold)) if self._text else ():
            yield self._build_option(provider, others)

    def _build_option(self, provider: str, others: InstanceSelection) -> BuiltOption:
        hosted = join_parts(self._choose_model(provider, task.demand) for task in self._text if task.demand is not None)
        places, misses = self._processing_places(provider, tuple(hosted.models.values()))
        rented = join_parts(self._world.writer.write_rented(pick) for pick in others.picks)
        part = join_parts([hosted, rented])
        home = next((place for place in places if place in self._catalog.countries), self._needs.organisation.country)
        where = (Location("hosted-api", provider, places[0] if places else "", home),)
        regions = dict.fromkeys([*places, *self._rented_countries(part, where)]) if places else ()
        misses = (*hosted.misses, *misses, *others.misses)
        sites = [(", ".join(fleet.workloads), fleet.where) for fleet in rented.fleets]
        notes = [f"{names}: rented at {place.provider}, {place.region}" for names, place in sites]
        kinds = dict.fromkeys(
            task.workload.kind for task in self._rest if task.workload.kind in self._catalog.specialist_rules
        )
        if kinds:
            notes.append(f"the catalog has no hosted price for {', '.join(kinds)}")
        picked = {pick.task.name for pick in others.picks}
        if missing := [task.name for task in self._rest if task.name not in picked]:
            notes.append(f"the price does not include: {', '.join(missing)}")
        notes += [*hosted.notes, *others.notes]
        name = f"{PLACEMENT}-{provider}"
        draft = OptionDraft(name, "hosted-api", provider, regions=tuple(regions), misses=misses, notes=tuple(notes))
        return self._world.assembler.build(draft, part, where, whole=len(hosted.terms) == len(self._text))

    def _rented_countries(self, part: OptionPart, where: tuple[Location, ...]) -> Iterable[str]:
        """Yield countries of rented machines and of the control plane; a region's name only if the needs name it."""
        case = build_option_context(self._needs, self._catalog, self._ledger, part.fleets, where, part.models)
        rented = [(fleet.where.provider, fleet.where.region) for fleet in part.fleets]
        host = [(case.host.provider, case.host.region)] if case.host is not None else []
        for provider, name in [*rented, *host]:
            region = self._catalog.region(provider, name)
            # A region is allowed by its name if the needs name it, else by its country.
            yield name if region is None or name in self._named else region.country

    def _processing_places(self, provider: str, models: tuple[str, ...]) -> tuple[tuple[str, ...], Misses]:
        """Return the places where the models process data, and violations; no places if there is a violation."""
        every = [self._catalog.hosted_places(provider, model) for model in models or ("",)]
        places = tuple(sorted({place for known in every if known is not None for place in known}))
        unknown, misses = None in every, dict[ConstraintViolation, None]()
        for task in self._text:
            bounds = residency.collect_bounds(self._needs, task.workload)
            outside = [place for place in places if not residency.is_place_inside(self._catalog, bounds, place)]
            if bounds and (unknown or outside):
                named = ", ".join(dict.fromkeys(display_place(self._catalog, place) for place in outside))
                value = named or model_selection.UNKNOWN
                misses[build_violation("residency", value, residency.format_bounds(bounds))] = None
        if misses:
            return (), tuple(misses)
        shown = [display_place(self._catalog, place) for place in places]
        return tuple(dict.fromkeys([*shown, residency.UNRESTRICTED] if unknown else shown)), ()

    def _select_other_machines(self, clouds: tuple[str, ...]) -> InstanceSelection:
        """Select the cheapest machines for non-text work, which are the same for every provider."""
        misses = [make_sites_miss(task, "a hosted model") for task in (*self._text, *self._rest) if task.workload.sites]
        named = {task.name for task in self._text}
        bound = [task for task in self._rest if task.follows in named]
        limit = "a model with available weights"
        misses += [build_violation(f"{task.name}.base", "a hosted model", limit) for task in bound]
        free = tuple(task for task in self._rest if task not in bound)
        whole = [one for cloud in clouds for one in self._list_selections(cloud, free)]
        if not whole:
            limit = "additional rented machines"
            misses += [build_violation(f"{task.name}.placement", "not sold by the token", limit) for task in free]
            return InstanceSelection((), tuple(misses))

        def rank(one: InstanceSelection) -> tuple[int, float]:
            places = {pick.host.where for pick in one.picks}
            provider = next((place.provider for place in places), "")
            further = compute_further_place_usd(self._needs, self._catalog, provider)
            return len(one.misses), sum(pick.cost for pick in one.picks) + further * (len(places) - 1)

        best = min(whole, key=rank)
        return best._replace(misses=(*best.misses, *misses))

    def _list_selections(self, cloud: str, tasks: tuple[WorkloadTask, ...]) -> Iterable[InstanceSelection]:
        """Yield the cheapest machines for all tasks, also per single region, if the cloud has them."""
        renter = self._world.renter
        spread = renter.select_instances(cloud, tasks)
        regions = sorted({pick.host.where.region for pick in spread.picks})
        single = [renter.limit_to(region).select_instances(cloud, tasks) for region in regions if len(regions) > 1]
        yield from (one for one in (spread, *single) if len(one.picks) == len(tasks))

    def price_models(self, provider: str, task: WorkloadTask) -> dict[str, float]:
        """Return the cost in USD over the horizon by each model on sale that meets the floors."""
        demand = task.demand
        if demand is None:
            return {}
        months = self._needs.budget.horizon_months
        passing = self._group_models(provider, demand)["passes"]
        return {model.id: self._model_monthly_usd(model, demand) * months for model in passing}

    def _group_models(self, provider: str, demand: Demand) -> dict[str, list[HostedModel]]:
        """Return the models by how they meet the floors: those on sale for LEAST_SALE, if one passes, else all."""
        last = self._today + LEAST_SALE
        found: dict[str, list[HostedModel]] = {}
        for until in (last, self._today) if demand.workload.model is None else (self._today,):
            found = {"passes": [], "unknown": [], "below": []}
            for model in self._eligible_models(provider, demand, until):
                evidence = self._catalog.hosted_evidence(provider, model.id)
                found[model_selection.assess_quality(demand.workload, evidence)].append(model)
            if found["passes"]:
                break
        return found

    def _choose_model(self, provider: str, demand: Demand) -> OptionPart:
        """Choose the cheapest model that passes the floors; else, as a violation, the best scored one, or any."""
        workload, by_standing = demand.workload, self._group_models(provider, demand)
        scored = by_standing["passes"] or by_standing["below"]
        pool = scored or by_standing["unknown"]
        if not pool:
            wanted = workload.model or f"a model with {demand.context_tokens} tokens of context"
            return OptionPart(misses=(build_violation(f"{workload.name}.model", None, wanted),))
        rater = find_rater(self._catalog, workload)

        def rank(one: HostedModel) -> tuple[float | str, ...]:
            # The cheapest of the models that pass comes first, else the nearest to the floors.
            scores = self._catalog.hosted_evidence(provider, one.id)
            lacks = [max(at - scores[on].low, 0.0) if on in scores else 1.0 for on, at in workload.quality.items()]
            lack = 0.0 if by_standing["passes"] else sum(lacks)
            return (lack, self._model_monthly_usd(one, demand), -rater.rate(one.id, provider).share, one.id)

        model = min(pool, key=rank)
        evidence = self._catalog.hosted_evidence(provider, model.id)
        notes = [*model_selection.list_quality_notes(workload, model.id, evidence)]
        misses = model_selection.find_floor_misses(workload, evidence)
        down = check_unverified_availability(workload, provider, self._catalog)
        slow = check_unverified_latency(demand, self._nearest_round_trip(demand, model), provider, self._catalog)
        scarce = check_token_quota(demand, provider, self._catalog)
        scores = model_selection.format_scores(evidence, workload.quality)
        notes += [
            f"{workload.name}: {model.id}{f': {scores}' if scores else ''}",
            *scarce.notes,
            *slow.notes,
        ]
        if not scored:
            notes.append(
                f"no model on sale at {provider} has a score on {', '.join(workload.quality)}; the cheapest one is "
                "priced. Set quality_unknown: accept, or state its score under scores in catalog/user.yaml"
            )
        if model.deprecation_date:
            notes.append(f"{model.id} is withdrawn on {model.deprecation_date}; successor: {model.successor or 'none'}")
        price, line = self._estimate_price(model, demand), f"{workload.name}: {provider} tokens"
        monthly = (price.value * growth / demand.mean_growth for growth in demand.growth)
        drivers = (price.basis, *self._ledger.select_drivers(load_driver(workload.name)))
        term = make_varying_flow(line, "tokens", monthly, drivers)
        misses = (*misses, *slow.misses, *down.misses, *scarce.misses)
        limits = (*slow.limits, *down.limits, *scarce.limits, *model_selection.assess_floors(workload, evidence))
        seen = (describe_image_tokens(workload, self._catalog, model),) if takes_images(workload) else ()
        models = {workload.name: model.id}
        part = OptionPart(terms=(term,), models=models, misses=misses, notes=tuple(notes), limits=limits)
        return part._replace(assumptions=seen)

    def _nearest_round_trip(self, demand: Demand, model: HostedModel) -> str:
        """Return the round trip to the nearest country that may process requests; a far one if unknown."""
        places = self._catalog.hosted_places(model.provider, model.id) or ()
        countries = [row.country for row in self._catalog.countries.values() if {row.country, *row.places} & {*places}]
        workload = demand.workload
        parts = (residency.select_round_trip(self._needs, self._catalog, workload, one) for one in countries or [""])
        return min(parts, key=lambda name: self._catalog.parameter(name).value)

    def _eligible_models(self, provider: str, demand: Demand, until: date) -> list[HostedModel]:
        """Return the models on sale after `until`, with enough context and output; or the model of the needs."""
        fixed = demand.workload.model
        found = [
            model
            for model in self._catalog.hosted
            if model.provider == provider
            and model.output_usd_per_token > 0
            and (not model.deprecation_date or date.fromisoformat(model.deprecation_date) > until)
            and (model.context_tokens or 0) >= self._with_image(demand, model).context_tokens
            and (not takes_images(demand.workload) or self._catalog.image_model(provider, model.id) is not None)
            and (model.output_tokens is None or model.output_tokens >= demand.output_tokens.p95)
            and (fixed is not None or not self._catalog.hosted_media(provider, model.id))
            and (fixed is None or fixed.lower() in (model.id.lower(), model.scores_of.lower()))
        ]
        bounds = residency.collect_bounds(self._needs, demand.workload)
        return [model for model in found if self._is_inside(model, bounds)] or found

    def _is_inside(self, model: HostedModel, bounds: residency.ResidencyBounds) -> bool:
        """True if the model processes data inside all bounds. A platform sells a model in several places."""
        places = self._catalog.hosted_places(model.provider, model.id)
        inside = places and all(residency.is_place_inside(self._catalog, bounds, place) for place in places)
        return not bounds or bool(inside)

    def _with_image(self, demand: Demand, model: HostedModel) -> Demand:
        return add_image_tokens(demand, self._catalog, model.id, model.provider)

    def _model_monthly_usd(self, model: HostedModel, demand: Demand) -> float:
        paid = list_token_prices(model, demand.workload)
        return self._token_monthly_usd(self._with_image(demand, model), paid.input_usd, paid.output_usd)

    def _token_monthly_usd(self, demand: Demand, input_usd: float, output_usd: float) -> float:
        per_request = demand.input_tokens.mean * input_usd + demand.output_tokens.mean * output_usd
        return demand.requests_per_month * demand.mean_growth * per_request

    def _estimate_price(self, model: HostedModel, demand: Demand) -> Estimate:
        demand = self._with_image(demand, model)
        value, band = self._model_monthly_usd(model, demand), BAND["high" if model.agrees else model.confidence]
        second, reads, writes = value, model.second_input_usd_per_token, model.second_output_usd_per_token
        if reads is not None and writes is not None:
            listed = self._token_monthly_usd(demand, model.input_usd_per_token, model.output_usd_per_token)
            second = value * self._token_monthly_usd(demand, reads, writes) / listed
        low, high = min(value / band, second), max(value * band, second)
        paid = list_token_prices(model, demand.workload)
        return self._ledger.create_driver(
            Estimate(value=value, low=low, high=high, unit=f"{USD}/month"),
            f"{demand.workload.name}.tokens.{model.provider}",
            "quoted",
            f"cost of tokens per month, mean over the horizon, {paid.terms}",
            formula=(
                f"{format_exact(round(demand.requests_per_month * demand.mean_growth))} requests x "
                f"({format_exact(demand.input_tokens.mean)} x {format_exact(paid.input_usd * 1e6)} + "
                f"{format_exact(demand.output_tokens.mean)} x "
                f"{format_exact(paid.output_usd * 1e6)}) USD per million tokens"
            ),
            facts=(f"{model.provider} {model.id}: {format_source(model)}",),
            stratum="two sources agree" if model.agrees else "one source, or sources disagree",
        )


class TokenPrices(NamedTuple):
    """Prices in USD of an input token, mean over cached and other tokens, and of an output token, and their terms."""

    input_usd: float
    output_usd: float
    terms: str


def list_token_prices(model: HostedModel, workload: Workload) -> TokenPrices:
    """Return batch prices for batch work that may take a day, else the price with cached reads of shared prefixes."""
    traffic = workload.traffic or Traffic()
    reads, writes = model.batch_input_usd_per_token, model.batch_output_usd_per_token
    deadline = workload.deadline_h or traffic.deadline_h or 0.0
    if workload.kind == "batch-text" and deadline >= BATCH_DEADLINE_H and reads is not None and writes is not None:
        return TokenPrices(reads, writes, f"at batch prices, because its deadline is {format_exact(deadline)} h")
    listed, cached, shared = model.input_usd_per_token, model.cache_read_usd_per_token, traffic.shared_prefix_share
    if shared and cached is not None:
        text = f"{format_share(shared)} of the prompt tokens at the price of cached input"
        return TokenPrices(listed * (1 - shared) + min(cached, listed) * shared, model.output_usd_per_token, text)
    return TokenPrices(listed, model.output_usd_per_token, "without discounts for cached prompts or batches")


def display_place(catalog: Catalog, place: str) -> str:
    """Return a country unchanged, and a country group as the smallest group of COUNTRY_GROUPS that contains it."""
    if place in catalog.countries:
        return place
    members = [row for row in catalog.countries.values() if place in row.places]
    return next((group for group in COUNTRY_GROUPS if members and all(group in row.places for row in members)), place)
