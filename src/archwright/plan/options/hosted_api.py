"""Options that buy answers by the token.

Price of a month: requests x (input tokens x input price + output tokens x output price), month by month.
Prices in the catalog come from one source, checked against a second; where they disagree the band covers both.
Where a provider computes is a fact of the catalog; of whom nobody knows it, data bound to a place rule out: the
option is priced and listed, not feasible, its residency unknown. What is not text runs on rented machines beside it,
at the allowed cloud where it costs the least.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import BAND, HostedModel
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TEXT_KINDS
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import USD, OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow, make_varying_flow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import WorkloadTask
from archwright.plan.capacity.quotas import check_token_quota
from archwright.plan.capacity.service_levels import check_unverified_availability, check_unverified_latency
from archwright.plan.cost.data_placement import build_option_context
from archwright.plan.demand.data_residency import (
    UNRESTRICTED,
    collect_bounds,
    format_bounds,
    is_place_inside,
    select_round_trip,
)
from archwright.plan.demand.forecast import Demand
from archwright.plan.demand.model_selection import (
    SIMILAR_COST_FACTOR,
    UNKNOWN,
    assess_quality,
    find_floor_misses,
    format_unrated_note,
    is_quality_known,
)
from archwright.plan.options.cloud_instances import InstanceSelection
from archwright.plan.options.edge_sites import make_sites_miss, runs_at_sites
from archwright.plan.options.on_premises import PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionPart, join_parts
from archwright.plan.violations import Misses, build_violation

PLACEMENT = "hosted-api"
# Groups of countries that needs may name, the smaller first: what a provider says in others is said in these.
COUNTRY_GROUPS = ("EEA", "APAC")
USD_PER_MONTH = f"{USD}/month"

DAYS_PER_MONTH = 365.25 / 12


class TokenPurchase(NamedTuple):
    term: CashFlow | None
    model: str | None
    misses: Misses
    notes: tuple[str, ...]


class HostedApiPlanner:
    def __init__(
        self, world: PlanningContext, ledger: PlanProvenance, tasks: tuple[WorkloadTask, ...], now: datetime
    ) -> None:
        self._world, self._needs, self._catalog, self._ledger = world, world.needs, world.catalog, ledger
        self._today = now.date()
        text = [task for task in tasks if task.demand is not None and task.workload.kind in TEXT_KINDS]
        self._text = tuple(text)
        self._rest = tuple(task for task in tasks if task not in text)
        named = (self._needs.placement.regions or (), *(data.residency for data in self._needs.data))
        self._named = frozenset(place for places in named for place in places)

    def options(self, clouds: tuple[str, ...]) -> Iterable[BuiltOption]:
        sold = {model.provider for model in self._catalog.hosted}
        named = set(self._needs.placement.clouds or ()) & sold
        beside = self._select_other_machines(clouds if "cloud" in self._needs.placement.allow else ())
        for provider in sorted(named or sold) if self._text else ():
            yield self._build_option(provider, beside)

    def _build_option(self, provider: str, beside: InstanceSelection) -> BuiltOption:
        bought = [self._choose_model(provider, task.demand) for task in self._text if task.demand is not None]
        priced = tuple(part.term for part in bought if part.term is not None)
        models = {task.workload.name: p.model for task, p in zip(self._text, bought, strict=True) if p.model}
        places, misses = self._processing_places(provider, tuple(models.values()))
        rented = join_parts(self._world.writer.write_rented(pick) for pick in beside.picks)
        part = join_parts([OptionPart(terms=priced, models=models), rented])
        home = next((place for place in places if place in self._catalog.countries), self._needs.organisation.country)
        where = (Location("hosted-api", provider, places[0] if places else "", home),)
        regions = dict.fromkeys([*places, *self._rented_countries(part, where)]) if places else ()
        misses = (*(miss for one in bought for miss in one.misses), *misses, *beside.misses)
        notes = [
            *self._describe_other_work(beside, rented),
            *(note for one in bought for note in one.notes),
            *beside.notes,
        ]
        name = f"{PLACEMENT}-{provider}"
        draft = OptionDraft(name, "hosted-api", provider, regions=tuple(regions), misses=misses, notes=tuple(notes))
        return self._world.assembler.build(draft, part, where, whole=len(priced) == len(self._text))

    def _describe_other_work(self, beside: InstanceSelection, rented: OptionPart) -> Iterable[str]:
        for fleet in rented.fleets:
            yield f"{', '.join(fleet.workloads)}: rented at {fleet.where.provider}, {fleet.where.region}"
        picked = {pick.task.name for pick in beside.picks}
        missing = [task.name for task in self._rest if task.name not in picked]
        if missing:
            yield f"the price leaves out what it cannot do: {', '.join(missing)}"

    def _rented_countries(self, part: OptionPart, where: tuple[Location, ...]) -> Iterable[str]:
        """Countries of the machines and host rented beside the provider; a region only if the needs name it."""
        case = build_option_context(self._needs, self._catalog, self._ledger, part.fleets, where, part.models)
        rented = [(fleet.where.provider, fleet.where.region) for fleet in part.fleets]
        host = [(case.host.provider, case.host.region)] if case.host is not None else []
        for provider, name in [*rented, *host]:
            region = self._catalog.region(provider, name)
            # A region that the needs name is allowed by its name; any other because of its country.
            yield name if region is None or name in self._named else region.country

    def _processing_places(self, provider: str, models: tuple[str, ...]) -> tuple[tuple[str, ...], Misses]:
        """Where the models process, in the contract's words, and what that breaks; no place if it breaks anything."""
        every = [self._catalog.hosted_places(provider, model) for model in models or ("",)]
        places = tuple(sorted({place for known in every if known is not None for place in known}))
        unknown, misses = None in every, dict[ConstraintViolation, None]()
        for task in self._text:
            bounds = collect_bounds(self._needs, task.workload)
            outside = [place for place in places if not is_place_inside(self._catalog, bounds, place)]
            if bounds and (unknown or outside):
                value = ", ".join(dict.fromkeys(display_place(self._catalog, place) for place in outside)) or UNKNOWN
                misses[build_violation("residency", value, format_bounds(bounds))] = None
        if misses:
            return (), tuple(misses)
        said = [display_place(self._catalog, place) for place in places]
        return tuple(dict.fromkeys([*said, UNRESTRICTED] if unknown else said)), ()

    def _select_other_machines(self, clouds: tuple[str, ...]) -> InstanceSelection:
        """The cheapest machines for what is not text, the same for every provider."""
        misses = [make_sites_miss(task, "a hosted model") for task in (*self._text, *self._rest) if runs_at_sites(task)]
        named = {task.name for task in self._text}
        bound = [task for task in self._rest if task.follows in named]
        for task in bound:
            limit = "a model whose weights can be had"
            misses.append(build_violation(f"{task.name}.base", "a hosted model", limit))
        free = tuple(task for task in self._rest if task not in bound)
        found = [self._world.renter.select_instances(cloud, free) for cloud in clouds]
        whole = [one for one in found if len(one.picks) == len(free)]
        if not whole:
            limit = "machines rented beside it"
            misses += [build_violation(f"{task.name}.placement", "not sold by the token", limit) for task in free]
            return InstanceSelection((), tuple(misses))
        best = min(whole, key=lambda one: (len(one.misses), sum(pick.usd for pick in one.picks)))
        return best._replace(misses=(*best.misses, *misses))

    def _choose_model(self, provider: str, demand: Demand) -> TokenPurchase:
        """The cheapest model that passes the floors, else the cheapest whose quality nobody reported, as a miss."""
        workload = demand.workload
        by_standing: dict[str, list[HostedModel]] = {"passes": [], "unknown": [], "below": []}
        for model in self._eligible_models(provider, demand):
            by_standing[assess_quality(workload, self._reported_quality(model, demand))].append(model)
        pool = by_standing["passes"] or by_standing["unknown"] or by_standing["below"]
        if not pool:
            wanted = workload.model or f"a model with {demand.context_tokens} tokens of context"
            return TokenPurchase(None, None, (build_violation(f"{workload.name}.model", None, wanted),), ())
        # One that is withdrawn within the horizon only where none outlives it: its successor's price is another.
        model, known = self._cheapest_models(pool, demand)
        reported = self._reported_quality(model, demand)
        notes = [*format_unrated_note(workload, model.id, reported)]
        if known is not model:
            more = self._model_monthly_usd(known, demand) - self._model_monthly_usd(model, demand)
            costs = f"costs {self._world.format_amount(more)} a month more than {model.id}"
            notes.append(f"{workload.name}: {known.id}, whose quality is known, {costs}")
        misses = () if by_standing["passes"] else tuple(find_floor_misses(workload, reported))
        down = check_unverified_availability(workload, provider, self._catalog)
        slow = check_unverified_latency(demand, self._nearest_round_trip(demand, model), provider, self._catalog)
        scarce, said = check_token_quota(demand, provider, self._catalog)
        notes += [f"{workload.name}: {model.id}", *slow.notes, *down.notes, *said]
        if misses and by_standing["unknown"]:
            notes.append(f"{workload.name}: no {provider} model has a reported figure for the floor; cheapest priced")
        if model.deprecation_date:
            notes.append(f"{model.id} is withdrawn on {model.deprecation_date}; successor: {model.successor or 'none'}")
        price, line = self._estimate_price(model, demand), f"{workload.name}: {provider} tokens"
        monthly = (price.value * growth / demand.mean_growth for growth in demand.growth)
        term = make_varying_flow(line, "tokens", monthly, (self._ledger.register_driver(price),))
        return TokenPurchase(term, model.id, (*misses, *slow.misses, *down.misses, *scarce), tuple(notes))

    def _cheapest_models(self, pool: list[HostedModel], demand: Demand) -> tuple[HostedModel, HostedModel]:
        """The cheapest, one of known quality where that costs about as much; and the cheapest of known quality."""

        def rank(model: HostedModel) -> tuple[bool, float, str]:
            return self._is_withdrawn_early(model), self._model_monthly_usd(model, demand), model.id

        model = min(pool, key=rank)
        rated_ones = (one for one in pool if is_quality_known(demand.workload, self._reported_quality(one, demand)))
        known = min(rated_ones, key=rank, default=model)
        (ends, usd, _), (known_ends, known_usd, _) = rank(model), rank(known)
        return (known if (known_ends, known_usd) <= (ends, SIMILAR_COST_FACTOR * usd) else model), known

    def _nearest_round_trip(self, demand: Demand, model: HostedModel) -> str:
        """The round trip to the nearest of the countries where the model may answer; a far one where nobody knows."""
        places = self._catalog.hosted_places(model.provider, model.id) or ()
        countries = [row.country for row in self._catalog.countries.values() if {row.country, *row.places} & {*places}]
        ways = (select_round_trip(self._needs, self._catalog, demand.workload, one) for one in countries or [""])
        return min(ways, key=lambda name: self._catalog.parameter(name).value)

    def _eligible_models(self, provider: str, demand: Demand) -> list[HostedModel]:
        """Sold by the token, not withdrawn, wide enough; the fixed model only, when the needs fix one."""
        fixed = demand.workload.model
        return [
            model
            for model in self._catalog.hosted
            if model.provider == provider
            and model.output_usd_per_token > 0
            and (not model.deprecation_date or date.fromisoformat(model.deprecation_date) > self._today)
            and (model.context_tokens or 0) >= demand.context_tokens
            and (model.output_tokens is None or model.output_tokens >= demand.output_tokens.p95)
            and (fixed is None or model.id.lower() == fixed.lower())
        ]

    def _is_withdrawn_early(self, model: HostedModel) -> bool:
        last = self._today + timedelta(days=DAYS_PER_MONTH * self._needs.budget.horizon_months)
        return bool(model.deprecation_date) and date.fromisoformat(model.deprecation_date) < last

    def _reported_quality(self, model: HostedModel, demand: Demand) -> dict[str, float | None]:
        """Its own figures, else those of the open model of the same name."""
        known = self._catalog.hosted_quality(model.provider, model.id)
        return {benchmark: known.get(benchmark) for benchmark in demand.workload.quality}

    def _model_monthly_usd(self, model: HostedModel, demand: Demand) -> float:
        return self._token_monthly_usd(demand, model.input_usd_per_token, model.output_usd_per_token)

    def _token_monthly_usd(self, demand: Demand, input_usd: float, output_usd: float) -> float:
        per_request = demand.input_tokens.mean * input_usd + demand.output_tokens.mean * output_usd
        return demand.requests_per_month * demand.mean_growth * per_request

    def _estimate_price(self, model: HostedModel, demand: Demand) -> Estimate:
        value, band = self._model_monthly_usd(model, demand), BAND["high" if model.agrees else model.confidence]
        second, reads, writes = value, model.second_input_usd_per_token, model.second_output_usd_per_token
        if reads is not None and writes is not None:
            second = self._token_monthly_usd(demand, reads, writes)
        basis = self._ledger.create_basis(
            f"{demand.workload.name}.tokens.{model.provider}",
            "quoted",
            "tokens bought per month, mean over the horizon; prompts repeated from a cache are not deducted",
            formula=(
                f"{demand.requests_per_month * demand.mean_growth:,.0f} requests x ({demand.input_tokens.mean:g} x "
                f"{model.input_usd_per_token * 1e6:g} + {demand.output_tokens.mean:g} x "
                f"{model.output_usd_per_token * 1e6:g}) USD per million tokens"
            ),
            facts=(f"{model.provider} {model.id}: {model.source}, {model.as_of or 'undated'}",),
            stratum="two sources agree" if model.agrees else "one source, or sources disagree",
        )
        low, high = min(value / band, second), max(value * band, second)
        return Estimate(value=value, low=low, high=high, unit=USD_PER_MONTH, basis=basis)


def display_place(catalog: Catalog, place: str) -> str:
    """A country as it is; a group of countries as the smallest group that needs name which holds all of it."""
    if place in catalog.countries:
        return place
    members = [row for row in catalog.countries.values() if place in row.places]
    return next((group for group in COUNTRY_GROUPS if members and all(group in row.places for row in members)), place)
