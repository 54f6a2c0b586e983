"""Options that buy answers by the token.

Price of a month: requests x (input tokens x input price + output tokens x output price), mean over the horizon.
Prices in the catalog come from one source, checked against a second; where they disagree the band covers both.
A provider says nothing checkable here about where it computes, so data bound to a place rules it out: the
option is priced and listed, not feasible, its residency unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import BAND, HostedModel
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs
from archwright.contract.plan import Miss
from archwright.plan.demand import Demand
from archwright.plan.ledger import Ledger
from archwright.plan.models import UNKNOWN, floor_misses, standing
from archwright.plan.money import USD, Draft
from archwright.plan.residency import bounds_of, in_words
from archwright.plan.terms import Term, recurring

PLACEMENT = "hosted-api"
MONTH = f"{USD}/month"


class Bought(NamedTuple):
    """One workload at one provider."""

    term: Term | None
    model: str | None
    misses: tuple[Miss, ...]
    notes: tuple[str, ...]


class HostedPlanner:
    """Prices every hosted provider that the needs allow."""

    def __init__(self, needs: Needs, catalog: Catalog, ledger: Ledger, now: datetime) -> None:
        self._needs, self._catalog, self._ledger, self._today = needs, catalog, ledger, now.date()
        self._open = {name.lower(): name for name in catalog.models}

    def drafts(self, demands: tuple[Demand, ...]) -> Iterable[Draft]:
        sold = {model.provider for model in self._catalog.hosted}
        named = set(self._needs.placement.clouds or ()) & sold
        for provider in sorted(named or sold):
            yield self._draft(provider, demands)

    def _draft(self, provider: str, demands: tuple[Demand, ...]) -> Draft:
        bought = [self._buy(provider, demand) for demand in demands]
        priced = [part.term for part in bought if part.term is not None]
        limits = {in_words(bounds_of(self._needs, d.workload)) for d in demands if bounds_of(self._needs, d.workload)}
        residency = [Miss(constraint="residency", value=UNKNOWN, limit=limit) for limit in sorted(limits)]
        notes = [note for part in bought for note in part.notes]
        if residency:
            notes.append(f"the catalog does not know where {provider} processes data: ask it, then judge again")
        return Draft(
            name=f"{PLACEMENT}-{provider}",
            placement="hosted-api",
            provider=provider,
            misses=(*(miss for part in bought for miss in part.misses), *residency),
            terms=tuple(priced) if len(priced) == len(bought) else None,
            models={d.workload.name: part.model for d, part in zip(demands, bought, strict=True) if part.model},
            notes=tuple(notes),
        )

    def _buy(self, provider: str, demand: Demand) -> Bought:
        """The cheapest model that passes the floors, else the cheapest whose quality nobody reported, as a miss."""
        workload, offered = demand.workload, self._offered(provider, demand)
        by_standing: dict[str, list[HostedModel]] = {"passes": [], "unknown": [], "below": []}
        for model in offered:
            by_standing[standing(workload, self._reported(model, demand))].append(model)
        pool = by_standing["passes"] or by_standing["unknown"] or by_standing["below"]
        if not pool:
            wanted = workload.model or f"a model with {demand.context_tokens} tokens of context"
            return Bought(None, None, (Miss(constraint=f"{workload.name}.model", value=None, limit=wanted),), ())
        model = min(pool, key=lambda m: (self._month_usd(m, demand), m.id))
        misses = tuple(floor_misses(workload, self._reported(model, demand))) if not by_standing["passes"] else ()
        notes = [f"{workload.name}: {model.id}"]
        if misses and by_standing["unknown"]:
            notes.append(f"{workload.name}: no {provider} model has a reported figure for the floor; cheapest priced")
        if model.deprecation_date:
            notes.append(f"{model.id} is withdrawn on {model.deprecation_date}; successor: {model.successor or 'none'}")
        price, months = self._price(model, demand), self._needs.budget.horizon_months
        line = f"{workload.name}: {provider} tokens"
        term = recurring(line, "tokens", price.value, months, (self._ledger.drive(price),))
        return Bought(term, model.id, misses, tuple(notes))

    def _offered(self, provider: str, demand: Demand) -> list[HostedModel]:
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

    def _reported(self, model: HostedModel, demand: Demand) -> dict[str, float | None]:
        """A hosted model that is an open one under the same name has that one's figures."""
        known = self._open.get(model.id.lower(), model.id)
        return {benchmark: self._catalog.quality(known, benchmark) for benchmark in demand.workload.quality}

    def _month_usd(self, model: HostedModel, demand: Demand) -> float:
        return self._usd(demand, model.input_usd_per_token, model.output_usd_per_token)

    def _usd(self, demand: Demand, input_usd: float, output_usd: float) -> float:
        per_request = demand.input_tokens.mean * input_usd + demand.output_tokens.mean * output_usd
        return demand.requests_per_month * demand.mean_growth * per_request

    def _price(self, model: HostedModel, demand: Demand) -> Estimate:
        value, band = self._month_usd(model, demand), BAND["high" if model.agrees else model.confidence]
        second = value
        if model.second_input_usd_per_token is not None and model.second_output_usd_per_token is not None:
            second = self._usd(demand, model.second_input_usd_per_token, model.second_output_usd_per_token)
        basis = self._ledger.basis(
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
        return Estimate(value=value, low=low, high=high, unit=MONTH, basis=basis)
