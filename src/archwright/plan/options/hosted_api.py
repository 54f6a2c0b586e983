"""Options with hosted models, paid per token.

Cost per month: requests x (input tokens x input price + output tokens x output price).
Catalog prices come from one source and are checked against a second one; if they differ, the interval covers both.
The catalog states where a provider processes data. If the place is unknown and data are bound to a place, the option is
priced and listed, but not feasible. Non-text work runs on rented machines, at the cheapest allowed cloud.
"""

from collections.abc import Iterable
from datetime import date, datetime, timedelta

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import BAND, HostedModel
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TEXT_KINDS
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import USD, OptionDraft
from archwright.plan.accounting.cash_flow import make_varying_flow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.capacity.quotas import check_token_quota
from archwright.plan.capacity.service_levels import check_unverified_availability, check_unverified_latency
from archwright.plan.cost.data_placement import build_option_context
from archwright.plan.cost.prices import format_source
from archwright.plan.demand import data_residency as residency
from archwright.plan.demand import model_selection
from archwright.plan.demand.forecast import MONTHS_PER_YEAR, Demand, load_driver
from archwright.plan.demand.image_input import add_image_tokens, takes_images
from archwright.plan.demand.specialist_models import RULES
from archwright.plan.options.cloud_instances import InstanceSelection
from archwright.plan.options.edge_sites import make_sites_miss
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts
from archwright.plan.violations import Misses, build_violation

PLACEMENT = "hosted-api"
# Country groups that needs may name, the smaller first; other groups of a provider are mapped to these.
COUNTRY_GROUPS = ("EEA", "APAC")
DAYS_PER_MONTH = 365.25 / MONTHS_PER_YEAR


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

    def options(self, clouds: tuple[str, ...]) -> Iterable[BuiltOption]:
        sold = {model.provider for model in self._catalog.hosted}
        named = set(self._needs.placement.clouds or ()) & sold
        others = self._select_other_machines(clouds if "cloud" in self._needs.placement.allow else ())
        for provider in sorted(named or sold) if self._text else ():
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
        kinds = dict.fromkeys(task.workload.kind for task in self._rest if task.workload.kind in RULES)
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
        found = [self._world.renter.select_instances(cloud, free) for cloud in clouds]
        whole = [one for one in found if len(one.picks) == len(free)]
        if not whole:
            limit = "additional rented machines"
            misses += [build_violation(f"{task.name}.placement", "not sold by the token", limit) for task in free]
            return InstanceSelection((), tuple(misses))
        best = min(whole, key=lambda one: (len(one.misses), sum(pick.usd for pick in one.picks)))
        return best._replace(misses=(*best.misses, *misses))

    def _choose_model(self, provider: str, demand: Demand) -> OptionPart:
        """Choose the cheapest model that passes the floors, else, as a violation, the cheapest of unknown quality."""
        workload = demand.workload
        by_standing: dict[str, list[HostedModel]] = {"passes": [], "unknown": [], "below": []}
        for model in self._eligible_models(provider, demand):
            by_standing[model_selection.assess_quality(workload, self._reported_quality(model, demand))].append(model)
        pool = by_standing["passes"] or by_standing["unknown"] or by_standing["below"]
        if not pool:
            wanted = workload.model or f"a model with {demand.context_tokens} tokens of context"
            return OptionPart(misses=(build_violation(f"{workload.name}.model", None, wanted),))
        # A model with an end date within the horizon ranks last, because the price of its successor is unknown.
        model, known = self._cheapest_models(pool, demand)
        reported = self._reported_quality(model, demand)
        notes = [*model_selection.format_unrated_note(workload, model.id, reported)]
        if known is not model:
            more = self._model_monthly_usd(known, demand) - self._model_monthly_usd(model, demand)
            costs = f"costs {self._world.format_amount(more)} more per month than {model.id}"
            notes.append(f"{workload.name}: {known.id}, whose quality is known, {costs}")
        misses = () if by_standing["passes"] else tuple(model_selection.find_floor_misses(workload, reported))
        down = check_unverified_availability(workload, provider, self._catalog)
        slow = check_unverified_latency(demand, self._nearest_round_trip(demand, model), provider, self._catalog)
        scarce, quota_notes = check_token_quota(demand, provider, self._catalog)
        notes += [f"{workload.name}: {model.id}", *slow.notes, *down.notes, *quota_notes]
        if misses and by_standing["unknown"]:
            unrated = f"no {provider} model has a reported score for the floor; the cheapest model is priced"
            notes.append(f"{workload.name}: {unrated}")
        if model.deprecation_date:
            notes.append(f"{model.id} is withdrawn on {model.deprecation_date}; successor: {model.successor or 'none'}")
        price, line = self._estimate_price(model, demand), f"{workload.name}: {provider} tokens"
        monthly = (price.value * growth / demand.mean_growth for growth in demand.growth)
        drivers = (price.basis, *self._ledger.select_drivers(load_driver(workload.name)))
        term = make_varying_flow(line, "tokens", monthly, drivers)
        misses = (*misses, *slow.misses, *down.misses, *scarce)
        return OptionPart(terms=(term,), models={workload.name: model.id}, misses=misses, notes=tuple(notes))

    def _cheapest_models(self, pool: list[HostedModel], demand: Demand) -> tuple[HostedModel, HostedModel]:
        """Return the model to buy, and the cheapest of known quality, which is bought if it costs about the same."""
        last = self._today + timedelta(days=DAYS_PER_MONTH * self._needs.budget.horizon_months)

        def rank(model: HostedModel) -> tuple[bool, float, str]:
            ends = bool(model.deprecation_date) and date.fromisoformat(model.deprecation_date) < last
            return ends, self._model_monthly_usd(model, demand), model.id

        model = min(pool, key=rank)
        quality = ((one, self._reported_quality(one, demand)) for one in pool)
        rated = (one for one, scores in quality if model_selection.is_quality_known(demand.workload, scores))
        known = min(rated, key=rank, default=model)
        (ends, usd, _), (known_ends, known_usd, _) = rank(model), rank(known)
        similar = (known_ends, known_usd) <= (ends, model_selection.SIMILAR_COST_FACTOR * usd)
        return (known if similar else model), known

    def _nearest_round_trip(self, demand: Demand, model: HostedModel) -> str:
        """Return the round trip to the nearest country that may process requests; a far one if unknown."""
        places = self._catalog.hosted_places(model.provider, model.id) or ()
        countries = [row.country for row in self._catalog.countries.values() if {row.country, *row.places} & {*places}]
        workload = demand.workload
        parts = (residency.select_round_trip(self._needs, self._catalog, workload, one) for one in countries or [""])
        return min(parts, key=lambda name: self._catalog.parameter(name).value)

    def _eligible_models(self, provider: str, demand: Demand) -> list[HostedModel]:
        """Return the models on sale with enough context and output; only the model that the needs fix, if any."""
        fixed = demand.workload.model
        found = [
            model
            for model in self._catalog.hosted
            if model.provider == provider
            and model.output_usd_per_token > 0
            and (not model.deprecation_date or date.fromisoformat(model.deprecation_date) > self._today)
            and (model.context_tokens or 0) >= self._with_image(demand, model).context_tokens
            and (not takes_images(demand.workload) or self._catalog.image_model(provider, model.id) is not None)
            and (model.output_tokens is None or model.output_tokens >= demand.output_tokens.p95)
            and (fixed is None or fixed.lower() in (model.id.lower(), model.scores_of.lower()))
        ]
        bounds = residency.collect_bounds(self._needs, demand.workload)
        return [model for model in found if self._is_inside(model, bounds)] or found

    def _is_inside(self, model: HostedModel, bounds: residency.ResidencyBounds) -> bool:
        """True if the model processes data inside all bounds. A platform sells a model in several places."""
        places = self._catalog.hosted_places(model.provider, model.id)
        inside = places and all(residency.is_place_inside(self._catalog, bounds, place) for place in places)
        return not bounds or bool(inside)

    def _reported_quality(self, model: HostedModel, demand: Demand) -> dict[str, float | None]:
        """Return the model's own scores, else those of the open model with the same name."""
        known = self._catalog.hosted_quality(model.provider, model.id)
        return {benchmark: known.get(benchmark) for benchmark in demand.workload.quality}

    def _with_image(self, demand: Demand, model: HostedModel) -> Demand:
        return add_image_tokens(demand, self._catalog, model.id, model.provider)

    def _model_monthly_usd(self, model: HostedModel, demand: Demand) -> float:
        demand = self._with_image(demand, model)
        return self._token_monthly_usd(demand, model.input_usd_per_token, model.output_usd_per_token)

    def _token_monthly_usd(self, demand: Demand, input_usd: float, output_usd: float) -> float:
        per_request = demand.input_tokens.mean * input_usd + demand.output_tokens.mean * output_usd
        return demand.requests_per_month * demand.mean_growth * per_request

    def _estimate_price(self, model: HostedModel, demand: Demand) -> Estimate:
        demand = self._with_image(demand, model)
        value, band = self._model_monthly_usd(model, demand), BAND["high" if model.agrees else model.confidence]
        second, reads, writes = value, model.second_input_usd_per_token, model.second_output_usd_per_token
        if reads is not None and writes is not None:
            second = self._token_monthly_usd(demand, reads, writes)
        low, high = min(value / band, second), max(value * band, second)
        return self._ledger.create_driver(
            Estimate(value=value, low=low, high=high, unit=f"{USD}/month"),
            f"{demand.workload.name}.tokens.{model.provider}",
            "quoted",
            "cost of tokens per month, mean over the horizon, without discounts for cached prompts",
            formula=(
                f"{demand.requests_per_month * demand.mean_growth:,.0f} requests x ({demand.input_tokens.mean:g} x "
                f"{model.input_usd_per_token * 1e6:g} + {demand.output_tokens.mean:g} x "
                f"{model.output_usd_per_token * 1e6:g}) USD per million tokens"
            ),
            facts=(f"{model.provider} {model.id}: {format_source(model)}",),
            stratum="two sources agree" if model.agrees else "one source, or sources disagree",
        )


def display_place(catalog: Catalog, place: str) -> str:
    """Return a country unchanged, and a country group as the smallest group of COUNTRY_GROUPS that contains it."""
    if place in catalog.countries:
        return place
    members = [row for row in catalog.countries.values() if place in row.places]
    return next((group for group in COUNTRY_GROUPS if members and all(group in row.places for row in members)), place)
