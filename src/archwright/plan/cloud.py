"""Options in clouds: one per provider, an open model per workload on rented accelerators, on-demand prices.

Replicas follow the load month by month: capacity for that month's peak at the share of it one replica carries,
at least one, plus spares where availability asks for them. Machines run all the time (no autoscaling yet).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import BAND, Offer
from archwright.contract.estimate import Estimate, product
from archwright.contract.needs import Needs
from archwright.contract.plan import Launch, Miss, Parallelism, Pool
from archwright.plan.availability import ONE_MACHINE, ONE_MACHINE_LOW, SPARE_ABOVE, holds, spares_for
from archwright.plan.demand import HOURS_PER_MONTH, Demand
from archwright.plan.ledger import Ledger
from archwright.plan.limits import judge_availability
from archwright.plan.models import Candidates, licence_note, open_models
from archwright.plan.money import USD, Draft
from archwright.plan.residency import Bounds, bounds_of, in_words, region_inside
from archwright.plan.search import Search, Sized, mean_machines
from archwright.plan.serve import Served, default_max_tokens
from archwright.plan.terms import Term, recurring
from archwright.simulate.serving import binding_rate
from archwright.sizing.calibration import slowness

DEFAULT_CLOUDS = 3
# Flagship accelerators' list prices fell by 33 to 44 % in one step within two years; other list prices stood still.
PRICE_FALL = 0.6


class Part(NamedTuple):
    """One workload at one provider; without a pool, `misses` says why."""

    pool: Pool | None = None
    term: Term | None = None
    served: Served | None = None
    misses: tuple[Miss, ...] = ()
    notes: tuple[str, ...] = ()


class Option(NamedTuple):
    """A draft and what its predictions need."""

    draft: Draft
    served: tuple[Served, ...]


class CloudPlanner:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: Ledger, seed: int) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._search = Search(catalog, seed)
        self._allowed = self._accelerators()

    def options(self, demands: tuple[Demand, ...]) -> Iterable[Option]:
        found = [(demand, open_models(demand, self._catalog)) for demand in demands]
        for provider in self._providers():
            yield self._option(provider, [self._part(provider, demand, models) for demand, models in found])

    def _providers(self) -> tuple[str, ...]:
        """The clouds the needs name, else those with the most offers in the catalog."""
        sold = Counter(offer.provider for offer in self._catalog.offers)
        named = self._needs.placement.clouds
        if named is not None:
            return tuple(sorted(provider for provider in named if provider in sold))
        largest = sorted(name for name, _ in sold.most_common(DEFAULT_CLOUDS))
        self._ledger.assume(f"placement.clouds: {', '.join(largest)}, the clouds with the most offers in the catalog")
        return tuple(largest)

    def _accelerators(self) -> frozenset[str] | None:
        """Ids that `placement.accelerators` allows, None for any; a family name allows all its members."""
        named = self._needs.placement.accelerators
        if named is None:
            return None
        return frozenset(row.id for name in named for row in self._catalog.family(name))

    def _option(self, provider: str, parts: list[Part]) -> Option:
        pools = tuple(part.pool for part in parts if part.pool is not None)
        terms = tuple(part.term for part in parts if part.term is not None)
        draft = Draft(
            name=f"cloud-{provider}",
            placement="cloud",
            provider=provider,
            regions=tuple(sorted({pool.region for pool in pools})),
            misses=tuple(dict.fromkeys(miss for part in parts for miss in part.misses)),
            terms=terms if len(terms) == len(parts) else None,
            pools=pools,
            models={name: pool.model for pool in pools for name in pool.workloads},
            notes=tuple(note for part in parts for note in part.notes),
        )
        return Option(draft, tuple(part.served for part in parts if part.served is not None))

    def _part(self, provider: str, demand: Demand, found: Candidates) -> Part:
        if not found.models:
            return Part(misses=found.misses, notes=found.notes)
        bounds = bounds_of(self._needs, demand.workload)
        near = [o for o in self._offers(provider) if region_inside(self._catalog, bounds, provider, o.region)]
        inside = [offer for offer in near if self._allowed is None or offer.accelerator in self._allowed]
        if not inside:
            return Part(misses=(self._nowhere(bounds, pinned=bool(near)),), notes=found.notes)
        sized = self._search.best(demand, found.models, inside)
        if sized is None:
            limit = "an accelerator that holds it"
            miss = Miss(constraint=f"{demand.workload.name}.model", value=found.models[0].id, limit=limit)
            return Part(misses=(miss,), notes=found.notes)
        return self._priced(demand, sized, found.notes)

    def _offers(self, provider: str) -> list[Offer]:
        """Whole accelerators the engine drives, with a list price."""
        return [
            offer
            for offer in self._catalog.offers
            if offer.provider == provider
            and offer.on_demand_usd_per_hour
            and offer.accelerator_share == 1
            and (device := self._catalog.accelerators.get(offer.accelerator or "")) is not None
            and device.kind == self._search.engine.kind
        ]

    def _nowhere(self, bounds: Bounds, *, pinned: bool) -> Miss:
        """Offers inside, but not of the pinned accelerators; or none inside at all."""
        if pinned:
            limit = ", ".join(self._needs.placement.accelerators or ())
            return Miss(constraint="accelerators", value="no offer inside the residency", limit=limit)
        return Miss(constraint="residency", value="no offer inside", limit=in_words(bounds))

    def _priced(self, demand: Demand, sized: Sized, said: tuple[str, ...]) -> Part:
        workload, needed = demand.workload, sized.spec.replicas
        spares = spares_for(needed, workload.slo.availability)
        misses, notes = list(sized.misses), [*said, *licence_note(sized.spec.model)]
        low = holds(needed, spares, ONE_MACHINE_LOW)
        judge_availability(workload.name, holds(needed, spares), workload.slo, misses, notes, low=low)
        price = self._hourly(sized.offer)
        amount = self._monthly(demand, sized, price)
        self._assumptions(demand, sized, spares)
        return Part(
            pool=self._pool(demand, sized, spares, price),
            term=recurring(
                f"{workload.name}: {sized.offer.instance_type} in {sized.offer.region}",
                "compute",
                amount.value,
                self._needs.budget.horizon_months,
                (self._ledger.drive(amount),),
            ),
            served=Served(demand, sized.spec, alone=True),
            misses=tuple(misses),
            notes=tuple(notes),
        )

    def _hourly(self, offer: Offer) -> Estimate:
        price, band = offer.on_demand_usd_per_hour or 0.0, BAND[offer.confidence]
        basis = self._ledger.basis(
            f"price.{offer.id}",
            "quoted",
            "on-demand price of one machine for an hour",
            formula=f"{offer.price_kind} price; may fall to {PRICE_FALL:.0%} of it, or rise by {band - 1:.0%}",
            facts=(f"{offer.id}: {price:g} USD/h, {offer.source}, {offer.as_of or 'undated'}",),
            stratum=f"{offer.price_kind} price",
        )
        return Estimate(value=price, low=price * PRICE_FALL, high=price * band, unit=f"{USD}/h", basis=basis)

    def _monthly(self, demand: Demand, sized: Sized, price: Estimate) -> Estimate:
        """Mean machines over the horizon x price x hours; their number has the band of an engine's speed."""
        fast, slow = slowness(sized.spec.efficiency, binding_rate(sized.spec), 2)
        machines = Estimate(
            value=mean_machines(demand, sized.spec.replicas, 1.0),
            low=mean_machines(demand, sized.spec.replicas, fast),
            high=mean_machines(demand, sized.spec.replicas, slow),
            unit="machines",
        )
        basis = self._ledger.basis(
            f"{demand.workload.name}.machines.{sized.offer.id}",
            "simulated",
            "machines for the peak of each month, rented all the time, mean over the horizon",
            formula=f"{machines.value:.2f} machines x {price.value:g} USD/h x {HOURS_PER_MONTH:g} h",
            facts=(
                price.basis,
                f"an engine's speed lies between 1/{slow:.3g} and 1/{fast:.3g} of the predicted",
                f"{sized.spec.efficiency.source}, {sized.spec.efficiency.as_of or 'undated'}",
            ),
            stratum="on-demand",
        )
        return product([machines, price], USD).scaled(HOURS_PER_MONTH, unit=f"{USD}/month", basis=basis)

    def _pool(self, demand: Demand, sized: Sized, spares: int, price: Estimate) -> Pool:
        spec, offer, engine = sized.spec, sized.offer, self._search.engine
        return Pool(
            name=demand.workload.name,
            model=spec.model.id,
            workloads=(demand.workload.name,),
            placement="cloud",
            provider=offer.provider,
            region=offer.region,
            machine=offer.instance_type,
            accelerator=offer.accelerator or "",
            accelerator_count=offer.accelerator_count,
            replicas=spec.replicas + spares,
            slots=spec.slots,
            context_tokens=spec.context_tokens,
            default_max_tokens=default_max_tokens(demand.output_tokens),
            quantisation=spec.quantisation,
            launch=Launch(engine=engine.id, health_path=engine.health_path, metrics=engine.metrics),
            parallelism=Parallelism(tensor=offer.accelerator_count, data=spec.replicas + spares),
            price_usd_per_hour=price,
        )

    def _assumptions(self, demand: Demand, sized: Sized, spares: int) -> None:
        name = demand.workload.name
        self._ledger.assume(
            f"one rented machine is up {ONE_MACHINE:.1%} of the time ({ONE_MACHINE_LOW:.0%} at the low end), failures "
            "independent; an outage of a whole region is not in here",
            "rented machines run all the time at the on-demand price; no autoscaling, spot or commitment",
            f"weights in {sized.spec.quantisation} keep the quality that was reported for the model",
        )
        if demand.workload.slo.availability is not None and demand.workload.slo.availability > SPARE_ABOVE:
            self._ledger.assume(f"{name}: availability above {SPARE_ABOVE:.0%} keeps at least one spare machine")
