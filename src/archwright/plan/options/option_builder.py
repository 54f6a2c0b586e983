"""Builds options: flows of money with their facts, fleets, pools and purchases of machines; what runs beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec, Offer
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.needs import TEXT_KINDS, Needs, Site
from archwright.contract.plan import ConstraintViolation, Launch, Pool, Purchase
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD, OptionDraft, check_limit, is_capex, is_monthly
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import DEFAULT_TIER, FailureDomain, RedundancyRequirement
from archwright.plan.capacity.candidates import CandidateMachine, WorkloadTask
from archwright.plan.capacity.machine_count import compute_mean_machines
from archwright.plan.capacity.purchase_options import HourlyPrice, PurchaseTranche
from archwright.plan.capacity.quotas import check_machine_quotas
from archwright.plan.capacity.served_load import BatchLoad, ServedLoad, default_max_tokens
from archwright.plan.capacity.service_levels import check_availability
from archwright.plan.cost.operating_costs import OperatingCosts, estimate_operating_costs
from archwright.plan.cost.prices import hour_price
from archwright.plan.demand.forecast import HOURS_PER_MONTH, Demand
from archwright.plan.demand.model_selection import list_model_notes
from archwright.plan.options.cloud_instances import InstanceChoice
from archwright.plan.violations import Misses, build_violation
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity

# Interruptible machines are priced by the hour and the zone: 40 to 90 % below the list price on one day.
SPOT_PRICE_FACTOR = 1.6
# Below this part of the predicted load a machine breaks its limits whatever their number: a risk, not a cost.
MIN_THROUGHPUT_SHARE = 0.1
# Zones of a region that machines are spread over.
ZONES_PER_REGION = 3


class ProvisionedLoad(NamedTuple):
    """A steady load and the machines that serve it: what its predictions need. `machines` share the peak; `up` are
    the machines that must run, their spares and place; None where they are the provider's affair. `part`: of a load
    that is shared among machine types, the share that is `demand`.
    """

    demand: Demand
    steady: SteadyCapacity
    machine: Machine
    machines: int
    up: RedundancyRequirement | None
    part: float = 1.0


class OptionPart(NamedTuple):
    terms: tuple[CashFlow, ...] = ()
    fleets: tuple[MachineFleet, ...] = ()
    pools: tuple[Pool, ...] = ()
    purchases: tuple[Purchase, ...] = ()
    models: dict[str, str] = {}
    serving: tuple[ProvisionedLoad | BatchLoad, ...] = ()
    misses: Misses = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


def join_parts(parts: Iterable[OptionPart]) -> OptionPart:
    held = list(parts)
    joined: dict[str, Any] = {}
    for field in OptionPart._fields:
        every = [one for part in held for one in getattr(part, field)]
        joined[field] = tuple(dict.fromkeys(every) if field in ("misses", "notes", "assumptions") else every)
    models = {name: model for part in held for name, model in part.models.items()}
    return OptionPart(**{**joined, "models": models})


class PoolWriter:
    def __init__(self, catalog: Catalog, ledger: PlanProvenance, site: Site | None = None) -> None:
        self._catalog, self._ledger, self._site = catalog, ledger, site

    def write_rented(self, pick: InstanceChoice) -> OptionPart:
        offer = pick.host.offer
        if offer is None:
            raise ValueError(f"{pick.task.name}: a rented machine has an offer")
        count = self.register_machine_count(pick)
        made = self.write_unpriced(pick)
        engines = max(pick.steady.engines, 1) if pick.steady is not None else 1
        price = self.record_list_price(offer).scaled(1 / engines)
        terms = tuple(self._price_tranche(pick, offer, tranche, count) for tranche in pick.tranches)
        return made._replace(terms=terms, pools=tuple(replace(one, price_usd_per_hour=price) for one in made.pools))

    def write_unpriced(self, pick: InstanceChoice) -> OptionPart:
        machine, task = pick.host.machine.id, pick.task
        made = OptionPart(
            fleets=tuple(_build_fleet(pick, tranche) for tranche in pick.tranches),
            purchases=tuple(_build_purchase(task.name, machine, tranche) for tranche in pick.tranches),
            models=map_workload_model(task, pick.model, pick.steady),
            misses=pick.misses,
            notes=list_model_notes(task.workload, pick.model),
            assumptions=list_assumptions(pick.steady or pick.batch),
        )
        if pick.steady is None:
            return made._replace(serving=build_batch_loads(task, pick.batch, pick.needed))
        misses, notes, slo = list(pick.misses), list(made.notes), task.workload.slo
        up = self.add_failure_domain(task, pick.host.where, RedundancyRequirement(pick.needed, pick.spares))
        if pick.host.where.placement != "serverless":
            check_availability(task.workload.name, up, slo, misses, notes)
        notes += describe_fragile_limits(task, pick.steady)
        replicas = (pick.needed + pick.spares) * max(pick.steady.engines, 1)
        pool = self.build_pool(task, pick.host, pick.steady, replicas)
        serving = build_provisioned_loads(task, pick.host, pick.steady, up)
        return made._replace(pools=(pool,), serving=serving, misses=tuple(misses), notes=tuple(notes))

    def _price_tranche(self, pick: InstanceChoice, offer: Offer, tranche: PurchaseTranche, count: str) -> CashFlow:
        line = f"{pick.task.name}: {offer.instance_type} in {offer.region}, {tranche.kind}"
        drivers = (count, *self.record_price_drivers(offer, tranche, pick))
        return CashFlow(line, "compute", tranche.usd, drivers, machines_of=(pick.task.workload.name,))

    def record_list_price(self, offer: Offer) -> Estimate:
        """The list price of an hour, kept as a fact that costs rest on."""
        found = hour_price(offer, self._catalog, self._ledger)
        self._ledger.register_driver(found)
        return found

    def record_price_drivers(self, offer: Offer, tranche: PurchaseTranche, pick: InstanceChoice) -> tuple[str, ...]:
        listed = self.record_list_price(offer)
        if tranche.kind == "on-demand":
            return (listed.basis,)
        paid = next(price for price in pick.ways if price.kind == tranche.kind)
        if paid.row is None:
            return (self._ledger.register_driver(self._estimate_offer_price(offer, paid)),)
        row, share = paid.row, 1 - paid.row.discount
        basis = self._ledger.create_basis(
            f"discount.{row.provider}.{tranche.kind}.{row.scope}".replace(" ", "-").lower(),
            "quoted",
            f"share of the list price paid for {tranche.kind} machines",
            formula=f"1 - {row.discount:g}",
            facts=(f"{row.provider}, {row.scope}: {row.source}, {row.as_of or 'undated'}",),
        )
        return (listed.basis, self._ledger.register_driver(self._catalog.estimate(row, share, "share", basis)))

    def _estimate_offer_price(self, offer: Offer, paid: HourlyPrice) -> Estimate:
        basis = self._ledger.create_basis(
            f"price.{paid.kind}.{offer.id}",
            "quoted",
            f"price of one {paid.kind} machine for an hour",
            facts=(f"{offer.id}: {paid.usd_per_hour:g} USD/h {paid.kind}, {offer.source}, {offer.as_of or 'undated'}",),
            stratum=f"{paid.kind} price",
        )
        if paid.kind == "spot":
            return within_factor(paid.usd_per_hour, SPOT_PRICE_FACTOR, f"{USD}/h", basis)
        return self._catalog.estimate(offer, paid.usd_per_hour, f"{USD}/h", basis)

    def register_machine_count(self, pick: InstanceChoice) -> str:
        """The basis of how many machines the work takes: as uncertain as what one of them does."""
        task, machine = pick.task, pick.host.machine
        device = machine.accelerator
        kind = f"{machine.accelerator_count}x-{device.id}" if device is not None else f"{machine.cores}-cores"
        name = f"machines.{task.name}.{pick.model.id if pick.model is not None else task.workload.kind}.{kind}"
        if pick.steady is not None and task.demand is not None:
            return self._ledger.register_driver(self._estimate_machine_count(name, task.demand, pick.steady))
        batch = pick.batch
        if batch is None:
            raise ValueError(f"{task.name}: neither a steady load nor a job")
        names = self._ledger.register_bases(batch.bases)
        facts = (names.get(batch.machine_hours.basis, ""), *batch.assumptions)
        basis = self._ledger.create_basis(name, "formula", "machine-hours of one run", facts=facts)
        return self._ledger.register_driver(replace(batch.machine_hours, basis=basis))

    def _estimate_machine_count(self, name: str, demand: Demand, steady: SteadyCapacity) -> Estimate:
        names = self._ledger.register_bases(steady.bases)
        carried = steady.requests_per_s
        basis = self._ledger.create_basis(
            name,
            "formula",
            "machines that run on average over the horizon, spares included",
            formula=(
                f"each level of the day and month: load / {carried.value:.4g} requests/s a machine, rounded up, and "
                "the spares its availability asks for"
            ),
            facts=(names.get(carried.basis, ""), *steady.assumptions),
        )
        value = compute_mean_machines(demand, carried.value)
        low = compute_mean_machines(demand, carried.high)
        high = compute_mean_machines(demand, max(carried.low, carried.value * MIN_THROUGHPUT_SHARE))
        return Estimate(value=value, low=min(low, value), high=max(high, value), unit="machines", basis=basis)

    def add_failure_domain(
        self, task: WorkloadTask, where: Location, up: RedundancyRequirement
    ) -> RedundancyRequirement:
        """With the place they stand in, except at a workload's own sites: what stops these stops their users too."""
        if task.workload.sites:
            return up
        if where.placement == "on-premises":
            tier = self._site.tier if self._site is not None and self._site.tier is not None else DEFAULT_TIER
            place = self._build_failure_domain(f"site.tier-{tier}", f"one data centre of tier {tier}", "a second")
        elif survives_zone_loss(up.needed, up.spares):
            place = self._build_failure_domain("site.region", "one region", "a second region")
        else:
            place = self._build_failure_domain("site.zone", "one zone", "spares for a lost zone, or a second region")
        return up._replace(place=place)

    def _build_failure_domain(self, part: str, said: str, beyond: str) -> FailureDomain:
        row = self._catalog.parts[part]
        fact = f"{part}: {row.low:g} .. {row.typical:g} .. {row.high:g}, {row.source}"
        basis = self._ledger.create_basis(f"part.{part}", "quoted", row.item, facts=(fact,), stratum=row.kind)
        found = self._catalog.parameter(part, basis)
        return FailureDomain(said, replace(found, high=min(1.0, found.high)), beyond)

    def build_pool(
        self, task: WorkloadTask, host: CandidateMachine, steady: SteadyCapacity, replicas: int, suffix: str = ""
    ) -> Pool:
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


def survives_zone_loss(needed: int, spares: int) -> bool:
    """Whether one zone may be lost: as many machines as are needed stand in the others."""
    total = needed + spares
    return total - math.ceil(total / ZONES_PER_REGION) >= needed


def describe_fragile_limits(task: WorkloadTask, steady: SteadyCapacity) -> list[str]:
    """What is said where the low end of the band holds no limit any more."""
    carried, said = steady.requests_per_s, f"at the slow end of its band {steady.model} breaks its limits on any number"
    fragile = carried.low < carried.value * MIN_THROUGHPUT_SHARE
    return [f"at risk: {task.workload.name}: {said}"] if fragile else []


def list_assumptions(sized: SteadyCapacity | BatchWork | None) -> tuple[str, ...]:
    return sized.assumptions if sized is not None else ()


def map_workload_model(task: WorkloadTask, model: ModelSpec | None, steady: SteadyCapacity | None) -> dict[str, str]:
    """The model of a workload: the catalog's, else what its kind of work is called."""
    name = model.id if model is not None else steady.model if steady is not None else ""
    return {task.workload.name: name} if name else {}


def build_provisioned_loads(
    task: WorkloadTask, host: CandidateMachine, steady: SteadyCapacity, up: RedundancyRequirement
) -> tuple[ProvisionedLoad, ...]:
    """Of several places the one with the most load. Serverless workers promise only texts, and only warm."""
    texts, passing = task.workload.kind in TEXT_KINDS, host.where.placement == "serverless"
    if task.demand is None or task.follows is not None or (passing and not texts):
        return ()
    if texts and task.demand.output_tokens.mean <= 0:
        return ()
    return (ProvisionedLoad(task.demand, steady, host.machine, up.needed, None if passing else up),)


def build_batch_loads(task: WorkloadTask, batch: BatchWork | None, machines: int) -> tuple[BatchLoad, ...]:
    return (BatchLoad(task.job, batch, machines),) if task.job is not None and batch is not None else ()


def _build_fleet(pick: InstanceChoice, tranche: PurchaseTranche) -> MachineFleet:
    busy, watts = measure_utilisation(pick)
    return MachineFleet(
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


def measure_utilisation(pick: InstanceChoice) -> tuple[float, float]:
    """Share of the machines' time under load, and what one draws then. A job's machines are there while they work."""
    steady, demand = pick.steady, pick.task.demand
    if steady is None or demand is None:
        return 1.0, pick.batch.busy_w if pick.batch is not None else 0.0
    there = sum(sum(tranche.machines) for tranche in pick.tranches) / len(demand.growth)
    return min(1.0, compute_busy_machines(demand, steady) / there) if there else 1.0, steady.busy_w


def compute_busy_machines(demand: Demand, steady: SteadyCapacity, growth: float | None = None) -> float:
    """Machines' worth of work, when the load has grown so much; mean over the horizon."""
    grown = demand.mean_growth if growth is None else growth
    rate = demand.requests_per_month * grown / (HOURS_PER_MONTH * 3600)
    return rate / steady.requests_per_s.value


def _build_purchase(pool: str, machine: str, tranche: PurchaseTranche) -> Purchase:
    mean = sum(tranche.machines) / len(tranche.machines)
    return Purchase(pool=pool, machine=machine, kind=tranche.kind, machines=mean, peak=tranche.peak)


def list_fleet_places(fleets: Iterable[MachineFleet]) -> tuple[Location, ...]:
    return tuple(dict.fromkeys(fleet.where for fleet in fleets))


class BuiltOption(NamedTuple):
    """A draft, what of it its predictions need (`served`: where that is resolved already), what its sizes assume."""

    draft: OptionDraft
    serving: tuple[ProvisionedLoad | BatchLoad, ...] = ()
    assumptions: tuple[str, ...] = ()
    served: tuple[ServedLoad, ...] = ()


class OptionBuilder:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger

    def build(self, draft: OptionDraft, part: OptionPart, where: tuple[Location, ...], *, whole: bool) -> BuiltOption:
        """`whole`: every workload has its place, so there is a price. The first of `where` is the main place."""
        scarce, said = check_machine_quotas(part.fleets, self._catalog)
        draft = draft._replace(
            pools=part.pools,
            models=part.models,
            purchases=part.purchases,
            fleets=part.fleets,
            misses=tuple(dict.fromkeys((*draft.misses, *part.misses, *scarce))),
            notes=tuple(dict.fromkeys((*draft.notes, *said, *part.notes))),
        )
        if not whole:
            return BuiltOption(draft, part.serving, part.assumptions)
        every = tuple(dict.fromkeys((*where, *list_fleet_places(part.fleets))))
        found = estimate_operating_costs(self._needs, self._catalog, self._ledger, part.fleets, every, part.models)
        misses, notes = list(draft.misses), [*draft.notes, *found.notes]
        self._check_site_limits(where, found, misses, notes)
        draft = draft._replace(
            terms=(*part.terms, *found.terms),
            power_kw=found.power_kw,
            rack_units=found.rack_units,
            energy_kwh_per_month=found.energy_kwh_per_month,
            carbon_kg_per_month=found.carbon_kg_per_month,
            misses=tuple(misses),
            notes=tuple(notes),
        )
        return BuiltOption(draft, part.serving, part.assumptions)

    def _check_site_limits(
        self, where: tuple[Location, ...], found: OperatingCosts, misses: list[ConstraintViolation], notes: list[str]
    ) -> None:
        """The site's own limits: sites of workloads have theirs, judged there."""
        site = self._needs.placement.site
        for place in found.places:
            if site is None or place.where not in where:
                continue
            check_limit("power_kw", place.power_kw, site.power_kw, misses, notes)
            if site.rack_units is not None and place.rack_units > site.rack_units:
                misses.append(build_violation("rack_units", place.rack_units, site.rack_units))


def sum_monthly_usd(terms: tuple[CashFlow, ...]) -> float:
    """What counts against the monthly limit, mean over the horizon."""
    return sum(term.sum / len(term.flow) for term in terms if is_monthly(term))


def sum_capex_usd(terms: tuple[CashFlow, ...]) -> float:
    return sum(term.sum for term in terms if is_capex(term))
