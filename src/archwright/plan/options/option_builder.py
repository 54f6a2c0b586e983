"""Builds options: pools, purchases and fleets of machines with their cash flows, and the operating costs."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec, Offer
from archwright.contract.estimate import Estimate, within_factor
from archwright.contract.job_window import JobWindow
from archwright.contract.needs import TEXT_KINDS, Needs, Site
from archwright.contract.number_format import format_ends, format_exact, format_number
from archwright.contract.plan import (
    ConstraintViolation,
    Launch,
    LimitProbability,
    ModelProposal,
    Pool,
    Purchase,
    assess_limit,
)
from archwright.contract.record import replace
from archwright.plan.accounting.budget import USD, OptionDraft
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import DEFAULT_TIER, FailureDomain, RedundancyRequirement
from archwright.plan.capacity.candidates import CandidateMachine, WorkloadTask
from archwright.plan.capacity.machine_count import ROUNDING, assess_deadline, compute_mean_machines, count_machines
from archwright.plan.capacity.purchase_options import PurchaseTranche
from archwright.plan.capacity.quotas import check_machine_quotas
from archwright.plan.capacity.served_load import BatchLoad, ServedLoad
from archwright.plan.capacity.service_levels import CheckedLevel, check_availability
from archwright.plan.cost.operating_costs import estimate_operating_costs
from archwright.plan.cost.prices import format_source, hour_price
from archwright.plan.demand.forecast import HOURS_PER_MONTH, SECONDS_PER_HOUR, Demand
from archwright.plan.demand.model_selection import assess_floors, list_model_notes
from archwright.plan.demand.specialist_models import describe_upstream
from archwright.plan.options.cloud_instances import InstanceChoice
from archwright.plan.violations import Limits, Misses, build_violation, list_misses
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.inference.option_effects import list_flags
from archwright.sizing.model.numeric_precision import WEIGHT_BITS
from archwright.sizing.step_time.step_work import WORKSPACE_BYTES

# Spot prices depend on hour and zone: 40 to 90 % below the list price within one day.
SPOT_PRICE_FACTOR = 1.6
# The number of machines is uncertain up to this share of the predicted load of one.
MIN_THROUGHPUT_SHARE = 0.1
# Zones of a region that machines are spread over.
ZONES_PER_REGION = 3
# An engine gets at most this share of a memory that the machine itself uses too.
SHARED_MEMORY_SHARE = 0.85


class ProvisionedLoad(NamedTuple):
    """A steady load and its machines, for predictions.

    `machines` share the peak; `up`: machines that must run, with spares and site; None if the provider manages them.
    `part`: share of the load if several machine types share it.
    """

    demand: Demand
    steady: SteadyCapacity
    machine: Machine
    machines: int
    up: RedundancyRequirement | None
    part: float = 1.0


class BusiestYear(NamedTuple):
    """A pool in its busiest year: engines, and machines for its `share` of the load; `up` is for the whole load.

    `used`: the machines and parts of machines that carry the load.
    """

    engines: int
    used: float
    share: float
    up: RedundancyRequirement

    @property
    def machines(self) -> int:
        return count_machines(self.used, 1.0)


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
    limits: Limits = ()
    windows: tuple[JobWindow, ...] = ()


def join_parts(parts: Iterable[OptionPart]) -> OptionPart:
    parts = list(parts)
    joined: dict[str, Any] = {}
    for field in OptionPart._fields:
        items = [item for part in parts for item in getattr(part, field)]
        joined[field] = tuple(dict.fromkeys(items) if field in ("misses", "notes", "assumptions") else items)
    models = {name: model for part in parts for name, model in part.models.items()}
    return OptionPart(**{**joined, "models": models})


def keep_least_probable(limits: Iterable[LimitProbability]) -> Limits:
    """Return each limit once: of several pools that serve a workload, the pool that holds it with less certainty."""
    kept = dict[str, LimitProbability]()
    for one in limits:
        kept[one.limit] = min(kept.get(one.limit, one), one, key=lambda each: each.probability)
    return tuple(kept.values())


class PoolWriter:
    """Writes pools, purchases, fleets and compute costs of chosen machines."""

    def __init__(self, catalog: Catalog, ledger: PlanProvenance, site: Site | None = None) -> None:
        self._catalog, self._ledger, self._site = catalog, ledger, site

    def write_rented(self, pick: InstanceChoice) -> OptionPart:
        offer, name = pick.host.offer, pick.task.name
        if offer is None:
            raise ValueError(f"{name}: a rented machine has an offer")
        count = self.register_machine_count(pick)
        part = self.write_unpriced(pick)
        engines = max(pick.steady.engines, 1) if pick.steady is not None else 1
        price = hour_price(offer, self._catalog, self._ledger).scaled(1 / engines)
        terms = []
        for tranche in pick.tranches:
            drivers = (count, *self.record_price_drivers(offer, tranche, pick))
            line = f"{name}: {offer.instance_type} in {offer.region}, {tranche.kind}"
            terms.append(CashFlow(line, "compute", tranche.usd, drivers, machines_of=(pick.task.workload.name,)))
        pools = tuple(replace(pool, price_usd_per_hour=price) for pool in part.pools)
        return part._replace(terms=tuple(terms), pools=pools)

    def write_unpriced(self, pick: InstanceChoice) -> OptionPart:
        task, fleets = pick.task, tuple(_build_fleet(pick, tranche) for tranche in pick.tranches)
        if pick.steady is None:
            part = self.write_job(task, pick.model, pick.batch, pick.needed)._replace(misses=pick.misses)
        else:
            engines = (pick.needed + pick.spares) * max(pick.steady.engines, 1)
            busiest = BusiestYear(engines, pick.needed, 1.0, RedundancyRequirement(pick.needed, pick.spares))
            part = self.write_load(task, pick.host, (pick.model, pick.steady), busiest)
        return part._replace(fleets=fleets, purchases=list_purchases(fleets, task.name))

    def write_job(
        self, task: WorkloadTask, model: ModelSpec | None, batch: BatchWork | None, machines: int
    ) -> OptionPart:
        return OptionPart(
            models={task.workload.name: model.id} if model is not None else {},
            notes=(*list_model_notes(task.workload, model, self._catalog), *describe_upstream(model)),
            serving=build_batch_loads(task, batch, machines),
            limits=assess_deadline(batch, task.job, machines) if batch is not None and task.job is not None else (),
            assumptions=batch.assumptions if batch is not None else (),
        )

    def write_load(
        self,
        task: WorkloadTask,
        host: CandidateMachine,
        sized: tuple[ModelSpec | None, SteadyCapacity],
        busiest: BusiestYear,
        suffix: str = "",
    ) -> OptionPart:
        """Write a steady load; `suffix` distinguishes a second pool of the workload. Raises ValueError for a job."""
        model, steady = sized
        notes = [*list_model_notes(task.workload, model, self._catalog), *describe_upstream(model)]
        up, level = self._add_failure_domain(task, host.where, busiest.up), CheckedLevel()
        if host.where.placement != "serverless":
            level = check_availability(task.workload, up)
        pool = self.build_pool(task, host, steady, busiest.engines, suffix)
        demand = task.demand.scaled_by(busiest.share) if task.demand is not None and busiest.share > ROUNDING else None
        limits = steady.assess(demand.peak_at_horizon / busiest.used) if demand is not None else ()
        loads = build_provisioned_loads(task._replace(demand=demand), host, steady, up)
        name = model.id if model is not None else steady.model
        scores = self._catalog.open_evidence(name) if task.workload.quality else {}
        return OptionPart(
            pools=(pool,),
            models={task.workload.name: name} if name else {},
            serving=tuple(load._replace(machines=busiest.machines, part=busiest.share) for load in loads),
            misses=(*steady.misses, *level.misses),
            notes=(*notes, *level.notes),
            assumptions=steady.assumptions,
            limits=(*limits, *level.limits, *assess_floors(task.workload, scores)),
        )

    def record_price_drivers(self, offer: Offer, tranche: PurchaseTranche, pick: InstanceChoice) -> tuple[str, ...]:
        """Return the bases of a tranche's price: the list price and a discount, or the offer's own price."""
        listed = hour_price(offer, self._catalog, self._ledger)
        if tranche.kind == "on-demand":
            return (listed.basis,)
        paid = next(price for price in pick.prices if price.kind == tranche.kind)
        if paid.row is not None:
            row = paid.row
            share = self._ledger.create_driver(
                self._catalog.estimate(row, 1 - row.discount, "share"),
                f"discount.{row.provider}.{tranche.kind}.{row.scope}".replace(" ", "-").lower(),
                "quoted",
                f"share of the list price for {tranche.kind} machines",
                formula=f"1 - {format_exact(row.discount)}",
                facts=(f"{row.provider}, {row.scope}: {format_source(row)}",),
            )
            return listed.basis, share.basis
        usd, unit = paid.usd_per_hour, f"{USD}/h"
        spot = paid.kind == "spot"
        price = self._ledger.create_driver(
            within_factor(usd, SPOT_PRICE_FACTOR, unit) if spot else self._catalog.estimate(offer, usd, unit),
            f"price.{paid.kind}.{offer.id}",
            "quoted",
            f"price per hour of one {paid.kind} machine",
            facts=(f"{offer.id}: {format_exact(usd)} USD/h {paid.kind}, {format_source(offer)}",),
            stratum=f"{paid.kind} price",
        )
        return (price.basis,)

    def register_machine_count(self, pick: InstanceChoice) -> str:
        """Register the machine count, which is as uncertain as the throughput of one machine; return its basis."""
        task, machine = pick.task, pick.host.machine
        device = machine.accelerator
        kind = f"{machine.accelerator_count}x-{device.id}" if device is not None else f"{machine.cores}-cores"
        name = f"machines.{task.name}.{pick.model.id if pick.model is not None else task.workload.kind}.{kind}"
        if pick.steady is not None and task.demand is not None:
            return self._register_steady_count(name, task.demand, pick.steady)
        batch = pick.batch
        if batch is None:
            raise ValueError(f"{task.name}: neither a steady load nor a job")
        hours = batch.machine_hours
        facts = (self._ledger.register_bases(batch.bases).get(hours.basis, ""), *batch.assumptions)
        return self._ledger.create_driver(hours, name, "formula", "machine-hours of one run", facts=facts).basis

    def _register_steady_count(self, name: str, demand: Demand, steady: SteadyCapacity) -> str:
        names, carried = self._ledger.register_bases(steady.bases), steady.requests_per_s
        value = compute_mean_machines(demand, carried.value)
        low = compute_mean_machines(demand, carried.high)
        high = compute_mean_machines(demand, max(carried.low, carried.value * MIN_THROUGHPUT_SHARE))
        return self._ledger.create_driver(
            Estimate(value=value, low=min(low, value), high=max(high, value), unit="machines"),
            name,
            "formula",
            "mean number of running machines over the horizon, spares included",
            formula=(
                f"for each load level and month: load / {format_number(carried.value, 4)} requests/s per machine, "
                "rounded up, plus spares for the availability target"
            ),
            facts=(names.get(carried.basis, ""), *steady.assumptions),
        ).basis

    def _add_failure_domain(
        self, task: WorkloadTask, where: Location, up: RedundancyRequirement
    ) -> RedundancyRequirement:
        """Add the site, except for a workload's own sites: an outage there stops the users too."""
        if task.workload.sites:
            return up
        if where.placement == "on-premises":
            tier = self._site.tier if self._site is not None and self._site.tier is not None else DEFAULT_TIER
            part, name, remedy = f"site.tier-{tier}", f"one data centre of tier {tier}", "a second data centre"
        elif survives_zone_loss(up.needed, up.spares):
            part, name, remedy = "site.region", "one region", "a second region"
        else:
            part, name, remedy = "site.zone", "one zone", "spares for the loss of a zone, or a second region"
        row = self._catalog.parts[part]
        fact = f"{part}: {format_ends(row.low, row.typical, row.high)}, {row.source}"
        basis = self._ledger.create_basis(f"part.{part}", "quoted", row.item, facts=(fact,), stratum=row.kind)
        found = self._catalog.parameter(part, basis)
        return up._replace(place=FailureDomain(name, replace(found, high=min(1.0, found.high)), remedy))

    def build_pool(
        self, task: WorkloadTask, host: CandidateMachine, steady: SteadyCapacity, replicas: int, suffix: str = ""
    ) -> Pool:
        """Build the pool of a steady load. Raises ValueError for a job, which runs no permanent engines."""
        if task.demand is None:
            raise ValueError(f"{task.name}: a job has no pool")
        engine = self._catalog.engines.get(steady.engine)
        device = host.machine.accelerator
        weights = self._estimate_weight_bytes(steady)
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
            default_max_tokens=max(1, steady.context_tokens),
            quantisation=steady.quantisation,
            launch=Launch(
                engine=steady.engine,
                health_path=engine.health_path if engine is not None else "/health",
                metrics=self._catalog.list_engine_series(steady.engine),
                arguments=self._list_arguments(task, host, steady) if engine is not None else (),
                startup_s=engine.estimate_startup_s(weights, steady.devices) if engine is not None else 0.0,
                adapters=dict.fromkeys(task.demand.adapters, task.workload.name),
            ),
            options=steady.options,
            parallelism=replace(steady.parallelism, data=replicas),
            embeddings=task.workload.kind == "embedding",
            rerank=task.workload.kind == "rerank",
            kind="text" if task.workload.kind in (*TEXT_KINDS, "embedding", "rerank") else "predict",
            weight_bytes=weights,
        )

    def _list_arguments(self, task: WorkloadTask, host: CandidateMachine, steady: SteadyCapacity) -> tuple[str, ...]:
        """Return the flags of the engine's options, its memory, and the parsers of a model that generates text."""
        engine = self._catalog.engines[steady.engine]
        flags = list(list_flags(engine, steady.options).values())
        share = self.find_memory_share(steady, host.machine.accelerator)
        if engine.memory_flag and share:
            flags.append(engine.memory_flag.format(share=share))
        if task.workload.kind in TEXT_KINDS:
            parsers = self._catalog.serving_parsers.get(steady.model)
            flags += engine.list_parser_flags(parsers)
        return tuple(flags)

    def find_memory_share(self, steady: SteadyCapacity, device: Accelerator | None) -> float | None:
        """Return the share of memory that weights and the cache of all slots need, if the machine uses it too.

        The engine's own default takes nearly all, and then the machine stops or the engine refuses to start.
        """
        if device is None or not device.is_memory_shared:
            return None
        memory_bytes = float(device.memory_bytes) * steady.devices
        spec = self._catalog.models.get(steady.model)
        token_bytes = spec.kv_bytes_per_token_bf16 if spec is not None else None
        if token_bytes is None:
            return SHARED_MEMORY_SHARE
        cache_bytes = steady.slots * steady.context_tokens * token_bytes
        used_bytes = self._estimate_weight_bytes(steady) + cache_bytes + WORKSPACE_BYTES * steady.devices
        return min(SHARED_MEMORY_SHARE, math.ceil(100 * used_bytes / memory_bytes) / 100)

    def _estimate_weight_bytes(self, steady: SteadyCapacity) -> int:
        """Return parameters x bits; 0 if the catalog has no architecture of the model."""
        spec, kind = self._catalog.models.get(steady.model), self._catalog.quantisations.get(steady.quantisation)
        bits = WEIGHT_BITS.get(steady.quantisation) or (kind.bits_per_weight if kind is not None else 0.0)
        return round(spec.parameters * bits / 8) if spec is not None else 0


def survives_zone_loss(needed: int, spares: int) -> bool:
    """True if the other zones have as many machines as are needed."""
    total = needed + spares
    return total - math.ceil(total / ZONES_PER_REGION) >= needed


def build_provisioned_loads(
    task: WorkloadTask, host: CandidateMachine, steady: SteadyCapacity, up: RedundancyRequirement
) -> tuple[ProvisionedLoad, ...]:
    """Return the load to predict, if there is one: of several places only the largest, of serverless only text."""
    text, serverless = task.workload.kind in TEXT_KINDS, host.where.placement == "serverless"
    if task.demand is None or task.follows is not None or (serverless and not text):
        return ()
    if text and task.demand.output_tokens.mean <= 0:
        return ()
    return (ProvisionedLoad(task.demand, steady, host.machine, up.needed, None if serverless else up),)


def build_batch_loads(task: WorkloadTask, batch: BatchWork | None, machines: int) -> tuple[BatchLoad, ...]:
    return (BatchLoad(task.job, batch, machines),) if task.job is not None and batch is not None else ()


def _build_fleet(pick: InstanceChoice, tranche: PurchaseTranche) -> MachineFleet:
    """Build a tranche's fleet; machines of a steady load idle in part, machines of a job exist only while it runs."""
    busy, watts = 1.0, pick.batch.busy_w if pick.batch is not None else 0.0
    if pick.steady is not None and pick.task.demand is not None:
        months, watts = len(pick.task.demand.growth), pick.steady.busy_w
        mean = sum(sum(each.machines) for each in pick.tranches) / months
        busy = min(1.0, compute_busy_machines(pick.task.demand, pick.steady) / mean) if mean else 1.0
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


def compute_busy_machines(demand: Demand, steady: SteadyCapacity, growth: float | None = None) -> float:
    """Return the mean number of busy machines at a growth factor; default: the mean growth over the horizon."""
    grown = demand.mean_growth if growth is None else growth
    return demand.requests_per_month * grown / (HOURS_PER_MONTH * SECONDS_PER_HOUR) / steady.requests_per_s.value


def list_purchases(
    fleets: Iterable[MachineFleet], pool: str, shared_with: tuple[str, ...] = ()
) -> tuple[Purchase, ...]:
    found = []
    for fleet in fleets:
        machine, mean = fleet.machine.id, sum(fleet.machines) / len(fleet.machines)
        one = Purchase(pool=pool, machine=machine, kind=fleet.purchase, machines=mean, peak=fleet.peak)
        found.append(replace(one, shared_with=shared_with))
    return tuple(found)


def list_fleet_places(fleets: Iterable[MachineFleet]) -> tuple[Location, ...]:
    return tuple(dict.fromkeys(fleet.where for fleet in fleets))


class BuiltOption(NamedTuple):
    """A draft with the loads to predict (`served`: already resolved loads) and the assumptions of its sizing.

    `proposals`: models that a download to this machine would give.
    """

    draft: OptionDraft
    serving: tuple[ProvisionedLoad | BatchLoad, ...] = ()
    assumptions: tuple[str, ...] = ()
    served: tuple[ServedLoad, ...] = ()
    proposals: tuple[ModelProposal, ...] = ()


def rank_by_cost(built: BuiltOption) -> tuple[int, float]:
    """Order by the number of missed limits, then by the cost in USD; an option without a price comes last."""
    usd = math.inf
    if built.draft.terms is not None:
        usd = sum(term.sum for term in built.draft.terms)
    return len(built.draft.misses), usd


class OptionBuilder:
    """Completes a draft with its machines and their operating costs."""

    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger

    def refuse(self, draft: OptionDraft, *misses: ConstraintViolation, part: OptionPart = OptionPart()) -> BuiltOption:  # noqa: B008
        """Build an option without a price, with further violations."""
        return self.build(draft._replace(misses=(*draft.misses, *misses)), part, (), whole=False)

    def build(self, draft: OptionDraft, part: OptionPart, where: tuple[Location, ...], *, whole: bool) -> BuiltOption:
        """Build an option, priced if `whole` (every workload has machines). The first of `where` is the main place."""
        quotas = check_machine_quotas(part.fleets, self._needs.budget, self._catalog)
        draft = draft._replace(
            pools=part.pools,
            models=part.models,
            purchases=part.purchases,
            fleets=part.fleets,
            windows=part.windows,
            misses=tuple(dict.fromkeys((*draft.misses, *part.misses, *quotas.misses))),
            notes=tuple(dict.fromkeys((*draft.notes, *quotas.notes, *part.notes))),
            limits=keep_least_probable((*draft.limits, *part.limits, *quotas.limits)),
        )
        if not whole:
            return BuiltOption(draft, part.serving, part.assumptions)
        places = tuple(dict.fromkeys((*where, *list_fleet_places(part.fleets))))
        costs = estimate_operating_costs(self._needs, self._catalog, self._ledger, part.fleets, places, part.models)
        limits, racks, placement = list[LimitProbability](), list[ConstraintViolation](), self._needs.placement
        # Sites of workloads have their own limits (`edge_sites`).
        for place in costs.places:
            name = place.where.region.partition(" ")[2]
            site = placement.sites.get(name) if place.where not in where else placement.site
            if site is not None:
                prefix = f"sites.{name}." if place.where not in where else ""
                if site.power_kw is not None:
                    stated = (f"{prefix}power_kw", site.power_kw, self._needs.budget.certainty)
                    limits.append(assess_limit(stated, place.power_kw))
                if site.rack_units is not None and place.rack_units > site.rack_units:
                    racks.append(build_violation(f"{prefix}rack_units", place.rack_units, site.rack_units))
        draft = draft._replace(
            terms=(*part.terms, *costs.terms),
            power_kw=costs.power_kw,
            rack_units=costs.rack_units,
            energy_kwh_per_month=costs.energy_kwh_per_month,
            carbon_kg_per_month=costs.carbon_kg_per_month,
            staff=costs.staff,
            servers=costs.servers,
            misses=(*draft.misses, *list_misses(limits), *racks),
            notes=(*draft.notes, *costs.notes),
            limits=(*draft.limits, *limits),
        )
        return BuiltOption(draft, part.serving, part.assumptions)
