"""Served loads: the traffic, context and default output length of a workload, and the engines that serve it."""

import hashlib
import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import TEXT_KINDS, Traffic
from archwright.contract.plan import LoadSpec, OptionEffect, Pool
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import RedundancyRequirement
from archwright.plan.demand.forecast import BatchJob, Demand
from archwright.plan.demand.image_input import add_image_work
from archwright.simulate.pool_simulation import PoolPrediction, PoolScenario, predict_pool
from archwright.simulate.serving_simulation import ServingPrediction, ServingSpec, predict_serving
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.inference import engine_options
from archwright.sizing.inference.deployment_layout import list_engine_layouts
from archwright.sizing.inference.engine_instance import RequestLengths
from archwright.sizing.inference.open_loop import Z95
from archwright.sizing.inference.option_effects import describe_options
from archwright.sizing.inference.serving_capacity import TextLoad

# A shorter peak window is enough if an engine gets PEAK_REQUESTS requests in it.
PEAK_S, MIN_PEAK_S, PEAK_REQUESTS = 45, 15, 600
MIN_RATE = 1e-6
SEED_BYTES = 4


class LocalLoad(NamedTuple):
    """A workload that the local machine serves."""

    demand: Demand
    spec: ServingSpec


class PooledLoad(NamedTuple):
    """A workload that a pool of engines serves on other machines.

    `up`: needed machines and spares; None if the provider manages them. `part`: share of a load that several pools
    serve together. `effects`: those of the chosen engine options.
    """

    demand: Demand
    spec: PoolScenario
    up: RedundancyRequirement | None = RedundancyRequirement(1, 0)
    part: float = 1.0
    effects: tuple[OptionEffect, ...] = ()


class NonTextLoad(NamedTuple):
    """A steady load without output tokens (images, rows, embeddings), and the capacity of one machine."""

    demand: Demand
    steady: SteadyCapacity
    up: RedundancyRequirement | None = RedundancyRequirement(1, 0)


class BatchLoad(NamedTuple):
    job: BatchJob
    batch: BatchWork
    machines: int


ServedLoad = LocalLoad | PooledLoad | NonTextLoad | BatchLoad


def list_load_specs(served: tuple[ServedLoad, ...]) -> tuple[LoadSpec, ...]:
    """Return the text traffic that `bench` can generate; pools that share a workload get one load."""
    found, shared = list[LoadSpec](), dict[str, LoadSpec]()
    for one in served:
        if isinstance(one, PooledLoad) and one.part < 1:
            load = one.spec.load
            if (other := shared.get(load.workload)) is not None:
                rate = other.requests_per_second + load.requests_per_second
                inside, peak_s = other.concurrency + load.concurrency, min(load.peak_s, other.peak_s)
                load = replace(load, requests_per_second=rate, concurrency=inside, peak_s=peak_s)
            shared[load.workload] = load
        elif isinstance(one, (LocalLoad, PooledLoad)):
            found.append(one.spec.load)
    return (*found, *shared.values())


def predict_load(served: LocalLoad | PooledLoad) -> ServingPrediction | PoolPrediction:
    return predict_serving(served.spec) if isinstance(served, LocalLoad) else predict_pool(served.spec)


def build_served_load(
    demand: Demand, steady: SteadyCapacity, machine: Machine, catalog: Catalog, *, replicas: int
) -> PooledLoad | NonTextLoad:
    """Build the load of `replicas` machines that share the peak of the busiest month.

    The closed loop keeps as many requests in flight as the 95th percentile of the open loop.
    """
    if demand.workload.kind not in TEXT_KINDS:
        return NonTextLoad(demand, steady)
    model = catalog.models[steady.model]
    demand = add_image_work(demand, catalog, model)
    text = build_text_load(demand)
    found = list_engine_layouts(machine, model, text.requests, catalog)
    plain = next(engine for engine in found if engine.devices == steady.devices)
    engine = engine_options.tune_engine(plain, steady.options, engine_options.read_costs(catalog)) or plain
    count = max(replicas, 1) * engine.copies
    share = demand.peak_at_horizon / count
    point = engine_options.open_loop_of(engine, text.flow).at_rate(share)
    engine = engine_options.widen_for_options(engine, text.flow, point.batch, catalog)
    crowd = min(engine.slots, math.ceil(point.inside + Z95 * math.sqrt(point.inside)))
    load = replace(build_load_spec(demand, model.id, crowd * count), peak_s=compute_peak_seconds(share))
    effects = describe_options(engine, text, catalog)
    return PooledLoad(demand, PoolScenario(model.id, engine, count, load), effects=effects)


def add_option_effects(pool: Pool, served: Iterable[ServedLoad], ledger: PlanProvenance) -> Pool:
    """Return the pool with the effects of its engine options on the load that it serves, and their bases."""

    def add_basis(one: OptionEffect) -> OptionEffect:
        name, definition = f"{pool.name}.option.{one.option}", "this setting / the plain setting, for each quantity"
        basis = ledger.create_basis(name, "formula", definition, formula=one.reason, facts=(one.source,))
        return replace(one, effects={key: replace(effect, basis=basis) for key, effect in one.effects.items()})

    for one in served:
        alike = isinstance(one, PooledLoad) and one.demand.workload.name in pool.workloads
        if alike and isinstance(one, PooledLoad) and one.spec.engine.options == pool.options:
            return replace(pool, effects=tuple(map(add_basis, one.effects)))
    return pool


def build_text_load(demand: Demand) -> TextLoad:
    """Return the requests of a text workload, with what they share."""
    workload = demand.workload
    shared = (workload.traffic or Traffic()).shared_prefix_share or 0.0
    adapters = len(demand.adapters)
    return TextLoad(workload.name, demand.input_tokens, demand.output_tokens, workload.slo, shared, adapters)


def compute_peak_seconds(rate: float) -> float:
    return float(min(PEAK_S, max(MIN_PEAK_S, round(PEAK_REQUESTS / max(rate, MIN_RATE)))))


def derive_seed(workload: str) -> int:
    """Derive the traffic seed from the workload's name, so that plans and `bench` use the same traffic."""
    return int.from_bytes(hashlib.sha256(workload.encode()).digest()[:SEED_BYTES]) % 2**31


def build_load_spec(demand: Demand, model: str, concurrency: int) -> LoadSpec:
    """Build the load at the peak of the busiest month, which the plan predicts and `bench` generates."""
    return LoadSpec(
        workload=demand.workload.name,
        model=model,
        requests_per_second=demand.peak_at_horizon,
        input_tokens=demand.input_tokens,
        output_tokens=demand.output_tokens,
        concurrency=concurrency,
        seed=derive_seed(demand.workload.name),
    )


def count_context_tokens(demand: Demand, model: ModelSpec) -> int:
    """Return the tokens of a slot: enough for long requests, in whole steps, at most the model's context."""
    return RequestLengths(demand.input_tokens, demand.output_tokens).context_tokens(model)
