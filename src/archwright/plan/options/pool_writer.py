"""From machines to what a plan keeps of them: flows of money with the facts behind them, fleets, pools, purchases."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec, Offer
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.needs import TEXT_KINDS, Site
from archwright.contract.plan import Launch, Miss, Pool, Purchase
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD
from archwright.plan.accounting.cash_flow import Term, following
from archwright.plan.accounting.fleet import Fleet, Where
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.capacity.availability import TIER, Place, Up
from archwright.plan.capacity.candidates import Host, Task
from archwright.plan.capacity.machine_count import mean_machines
from archwright.plan.capacity.purchase_options import Price, Tranche
from archwright.plan.capacity.served_load import Working, default_max_tokens
from archwright.plan.capacity.service_levels import judge_availability
from archwright.plan.cost.list_prices import hour_price
from archwright.plan.demand.forecast import HOURS_PER_MONTH, Demand
from archwright.plan.demand.model_selection import model_notes
from archwright.plan.options.cloud_instances import Pick
from archwright.sizing.hardware.machine import Batch, Machine, Steady

# Interruptible machines are priced by the hour and the zone: 40 to 90 % below the list price on one day.
SPOT_FACTOR = 1.6
# Below this part of the predicted load a machine breaks its limits whatever their number: a risk, not a cost.
LEAST_CARRIED = 0.1
# Zones of a region that machines are spread over.
ZONES = 3


class Serving(NamedTuple):
    """A steady load and the machines that serve it: what its predictions need. `machines` share the peak; `up` are
    the machines that must run, their spares and place; None where they are the provider's affair. `part`: of a load
    that is shared among machine types, the share that is `demand`.
    """

    demand: Demand
    steady: Steady
    machine: Machine
    machines: int
    up: Up | None
    part: float = 1.0


class Part(NamedTuple):
    """Some workloads' place in an option."""

    terms: tuple[Term, ...] = ()
    fleets: tuple[Fleet, ...] = ()
    pools: tuple[Pool, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    models: dict[str, str] = {}
    serving: tuple[Serving | Working, ...] = ()
    misses: tuple[Miss, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


def joined(parts: Iterable[Part]) -> Part:
    """All in one."""
    held = list(parts)
    return Part(
        terms=tuple(term for part in held for term in part.terms),
        fleets=tuple(fleet for part in held for fleet in part.fleets),
        pools=tuple(pool for part in held for pool in part.pools),
        purchases=tuple(bought for part in held for bought in part.purchases),
        models={name: model for part in held for name, model in part.models.items()},
        serving=tuple(one for part in held for one in part.serving),
        misses=tuple(dict.fromkeys(miss for part in held for miss in part.misses)),
        notes=tuple(dict.fromkeys(note for part in held for note in part.notes)),
        assumptions=tuple(dict.fromkeys(said for part in held for said in part.assumptions)),
    )


class Writer:
    """Writes picks into the ledger."""

    def __init__(self, catalog: Catalog, ledger: Ledger, site: Site | None = None) -> None:
        self._catalog, self._ledger, self._site = catalog, ledger, site

    def rented(self, pick: Pick) -> Part:
        offer = pick.host.offer
        if offer is None:
            raise ValueError(f"{pick.task.name}: a rented machine has an offer")
        count = self.machines(pick)
        made = self.unpriced(pick)
        price = self.listed(offer).scaled(1 / max(pick.steady.engines, 1)) if pick.steady is not None else None
        return made._replace(
            terms=tuple(self._term(pick, offer, tranche, count) for tranche in pick.tranches),
            pools=tuple(replace(pool, price_usd_per_hour=price) for pool in made.pools),
        )

    def unpriced(self, pick: Pick) -> Part:
        """All but the money."""
        machine, task = pick.host.machine.id, pick.task
        made = Part(
            fleets=tuple(_fleet(pick, tranche) for tranche in pick.tranches),
            purchases=tuple(_purchase(task.name, machine, tranche) for tranche in pick.tranches),
            models=named(task, pick.model, pick.steady),
            misses=pick.misses,
            notes=model_notes(task.workload, pick.model),
            assumptions=assumed(pick.steady or pick.batch),
        )
        if pick.steady is None:
            return made._replace(serving=working_of(task, pick.batch, pick.needed))
        misses, notes, slo = list(pick.misses), list(made.notes), task.workload.slo
        up = self.placed(task, pick.host.where, Up(pick.needed, pick.spares))
        if pick.host.where.placement != "serverless":
            judge_availability(task.workload.name, up, slo, misses, notes)
        notes += fragile(task, pick.steady)
        replicas = (pick.needed + pick.spares) * max(pick.steady.engines, 1)
        pool = self.pool(task, pick.host, pick.steady, replicas)
        serving = serving_of(task, pick.host, pick.steady, up)
        return made._replace(pools=(pool,), serving=serving, misses=tuple(misses), notes=tuple(notes))

    def _term(self, pick: Pick, offer: Offer, tranche: Tranche, count: str) -> Term:
        line = f"{pick.task.name}: {offer.instance_type} in {offer.region}, {tranche.kind}"
        paid = following(line, "compute", tranche.usd, (count, *self.price(offer, tranche, pick)))
        return paid._replace(machines_of=(pick.task.workload.name,))

    def listed(self, offer: Offer) -> Estimate:
        """The list price of an hour, kept as a fact that costs rest on."""
        found = hour_price(offer, self._catalog, self._ledger)
        self._ledger.drive(found)
        return found

    def price(self, offer: Offer, tranche: Tranche, pick: Pick) -> tuple[str, ...]:
        """The bases of what an hour costs in this way."""
        listed = self.listed(offer)
        if tranche.kind == "on-demand":
            return (listed.basis,)
        paid = next(price for price in pick.ways if price.kind == tranche.kind)
        if paid.row is None:
            return (self._ledger.drive(self._own_price(offer, paid)),)
        row, share = paid.row, 1 - paid.row.discount
        basis = self._ledger.basis(
            f"discount.{row.provider}.{tranche.kind}.{row.scope}".replace(" ", "-").lower(),
            "quoted",
            f"share of the list price paid for {tranche.kind} machines",
            formula=f"1 - {row.discount:g}",
            facts=(f"{row.provider}, {row.scope}: {row.source}, {row.as_of or 'undated'}",),
        )
        return (listed.basis, self._ledger.drive(self._catalog.estimate(row, share, "share", basis)))

    def _own_price(self, offer: Offer, paid: Price) -> Estimate:
        basis = self._ledger.basis(
            f"price.{paid.kind}.{offer.id}",
            "quoted",
            f"price of one {paid.kind} machine for an hour",
            facts=(f"{offer.id}: {paid.usd_per_hour:g} USD/h {paid.kind}, {offer.source}, {offer.as_of or 'undated'}",),
            stratum=f"{paid.kind} price",
        )
        if paid.kind == "spot":
            return within_factor(paid.usd_per_hour, SPOT_FACTOR, f"{USD}/h", basis)
        return self._catalog.estimate(offer, paid.usd_per_hour, f"{USD}/h", basis)

    def machines(self, pick: Pick) -> str:
        """The basis of how many machines the work takes: as uncertain as what one of them does."""
        task, machine = pick.task, pick.host.machine
        device = machine.accelerator
        kind = f"{machine.accelerator_count}x-{device.id}" if device is not None else f"{machine.cores}-cores"
        name = f"machines.{task.name}.{pick.model.id if pick.model is not None else task.workload.kind}.{kind}"
        if pick.steady is not None and task.demand is not None:
            return self._ledger.drive(self._counted(name, task.demand, pick.steady))
        batch = pick.batch
        if batch is None:
            raise ValueError(f"{task.name}: neither a steady load nor a job")
        names = self._ledger.adopt_all(batch.bases)
        basis = self._ledger.basis(
            name,
            "formula",
            "machine-hours of one run",
            facts=(names.get(batch.machine_hours.basis, ""), *batch.assumptions),
        )
        return self._ledger.drive(replace(batch.machine_hours, basis=basis))

    def _counted(self, name: str, demand: Demand, steady: Steady) -> Estimate:
        names = self._ledger.adopt_all(steady.bases)
        carried = steady.requests_per_s
        basis = self._ledger.basis(
            name,
            "formula",
            "machines that run on average over the horizon, spares included",
            formula=(
                f"each level of the day and month: load / {carried.value:.4g} requests/s a machine, rounded up, and "
                "the spares its availability asks for"
            ),
            facts=(names.get(carried.basis, ""), *steady.assumptions),
        )
        value = mean_machines(demand, carried.value)
        low = mean_machines(demand, carried.high)
        high = mean_machines(demand, max(carried.low, carried.value * LEAST_CARRIED))
        return Estimate(value=value, low=min(low, value), high=max(high, value), unit="machines", basis=basis)

    def placed(self, task: Task, where: Where, up: Up) -> Up:
        """With the place they stand in. What stops the place of a workload's own sites (a plant, a branch) stops what
        asks there too, so it does not count.
        """
        if task.workload.sites:
            return up
        if where.placement == "on-premises":
            tier = self._site.tier if self._site is not None and self._site.tier is not None else TIER
            place = self._place(f"site.tier-{tier}", f"one data centre of tier {tier}", "a second")
        elif spread_out(up.needed, up.spares):
            place = self._place("site.region", "one region", "a second region")
        else:
            place = self._place("site.zone", "one zone", "spares for a lost zone, or a second region")
        return up._replace(place=place)

    def _place(self, part: str, said: str, beyond: str) -> Place:
        row = self._catalog.parts[part]
        fact = f"{part}: {row.low:g} .. {row.typical:g} .. {row.high:g}, {row.source}"
        basis = self._ledger.basis(f"part.{part}", "quoted", row.item, facts=(fact,), stratum=row.kind)
        found = self._catalog.part(part, basis)
        return Place(said, replace(found, high=min(1.0, found.high)), beyond)

    def pool(self, task: Task, host: Host, steady: Steady, replicas: int, suffix: str = "") -> Pool:
        """Raises ValueError for a job: nothing of it is launched to stay."""
        if task.demand is None:
            raise ValueError(f"{task.name}: a job has no pool")
        engine = self._catalog.engines.get(steady.engine)
        device = host.machine.accelerator
        return Pool(
            name=f"{task.name}{suffix}",
            model=steady.model,
            workloads=(task.workload.name,),
            placement=host.where.placement,
            provider=host.where.provider,
            region=host.where.region,
            country=host.where.country,
            machine=host.machine.id,
            accelerator=device.id if device is not None and steady.devices else "",
            accelerator_count=steady.devices,
            replicas=replicas,
            slots=steady.slots,
            context_tokens=steady.context_tokens,
            default_max_tokens=default_max_tokens(task.demand.output_tokens),
            quantisation=steady.quantisation,
            launch=Launch(
                engine=steady.engine,
                health_path=engine.health_path if engine is not None else "/health",
                metrics=engine.metrics if engine is not None else {},
            ),
            parallelism=replace(steady.parallelism, data=replicas),
            embeddings=task.workload.kind == "embedding",
            kind="text" if task.workload.kind in (*TEXT_KINDS, "embedding") else "predict",
        )


def spread_out(needed: int, spares: int) -> bool:
    """Whether one zone may be lost: as many machines as are needed stand in the others."""
    total = needed + spares
    return total - math.ceil(total / ZONES) >= needed


def fragile(task: Task, steady: Steady) -> list[str]:
    """What is said where the low end of the band holds no limit any more."""
    carried = steady.requests_per_s
    if carried.low >= carried.value * LEAST_CARRIED:
        return []
    return [
        f"at risk: {task.workload.name}: at the slow end of its band {steady.model} breaks its limits on any number"
    ]


def assumed(sized: Steady | Batch | None) -> tuple[str, ...]:
    return sized.assumptions if sized is not None else ()


def named(task: Task, model: ModelSpec | None, steady: Steady | None) -> dict[str, str]:
    """The model of a workload: the catalog's, else what its kind of work is called."""
    name = model.id if model is not None else steady.model if steady is not None else ""
    return {task.workload.name: name} if name else {}


def serving_of(task: Task, host: Host, steady: Steady, up: Up) -> tuple[Serving, ...]:
    """Of several places the one with the most load. Workers that come and go start cold: only texts are promised there,
    for a warm one.
    """
    texts, passing = task.workload.kind in TEXT_KINDS, host.where.placement == "serverless"
    if task.demand is None or task.follows is not None or (passing and not texts):
        return ()
    if texts and task.demand.output_tokens.mean <= 0:
        return ()
    return (Serving(task.demand, steady, host.machine, up.needed, None if passing else up),)


def working_of(task: Task, batch: Batch | None, machines: int) -> tuple[Working, ...]:
    return (Working(task.job, batch, machines),) if task.job is not None and batch is not None else ()


def _fleet(pick: Pick, tranche: Tranche) -> Fleet:
    busy, watts = busy_of(pick)
    return Fleet(
        where=pick.host.where,
        machine=pick.host.machine,
        workloads=(pick.task.workload.name,),
        purchase=tranche.kind,
        machines=tranche.machines,
        peak=tranche.peak,
        busy=busy,
        busy_w=watts,
        offer=pick.host.offer,
    )


def busy_of(pick: Pick) -> tuple[float, float]:
    """Share of the machines' time under load, and what one draws then. A job's machines are there while they work."""
    steady, demand = pick.steady, pick.task.demand
    if steady is None or demand is None:
        return 1.0, pick.batch.busy_w if pick.batch is not None else 0.0
    there = sum(sum(tranche.machines) for tranche in pick.tranches) / len(demand.growth)
    return min(1.0, busy_machines(demand, steady) / there) if there else 1.0, steady.busy_w


def busy_machines(demand: Demand, steady: Steady, growth: float | None = None) -> float:
    """Machines' worth of work, when the load has grown so much; mean over the horizon."""
    grown = demand.mean_growth if growth is None else growth
    rate = demand.requests_per_month * grown / (HOURS_PER_MONTH * 3600)
    return rate / steady.requests_per_s.value


def _purchase(pool: str, machine: str, tranche: Tranche) -> Purchase:
    mean = sum(tranche.machines) / len(tranche.machines)
    return Purchase(pool=pool, machine=machine, kind=tranche.kind, machines=mean, peak=tranche.peak)


def places(fleets: Iterable[Fleet]) -> tuple[Where, ...]:
    """Where machines stand, once each."""
    return tuple(dict.fromkeys(fleet.where for fleet in fleets))
