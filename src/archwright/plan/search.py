"""The cheapest machine for a workload: candidates ranked by a bound, the first few sized by simulation.

The bound of a replica is the requests/s of full slots and prompts that never wait. Replicas start at peak / bound
and grow until every latency limit holds; then the least such number is sought by halving.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import Accelerator, EngineSpec, ModelSpec, Offer
from archwright.contract.estimate import exact
from archwright.contract.needs import SLO
from archwright.contract.plan import Miss
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.plan.availability import spares_for
from archwright.plan.demand import Demand
from archwright.plan.limits import judge_latency
from archwright.plan.serve import context_of, load_of
from archwright.simulate.serving import ServingSpec, fits, one_replica, peak_run
from archwright.sizing.memory import weights_bytes
from archwright.sizing.roofline import Roofline, hardware_of_accelerator

MODELS_TRIED, SIMULATED = 12, 16
REACH = 64
MOST_SLOTS = 64
BATCH_TOKENS = 2048
PEAK_S, LEAST_PEAK_S, PEAK_REQUESTS = 45, 15, 600
NARROW, WIDE = "fp8", "bf16"


class Candidate(NamedTuple):
    """A model on a machine type, with the replicas that the bound asks for at least."""

    offer: Offer
    spec: ServingSpec
    replicas: int
    usd_per_hour: float


class Sized(NamedTuple):
    """A candidate at the replicas its limits take, with the limits it breaks all the same; the price with spares."""

    offer: Offer
    spec: ServingSpec
    misses: tuple[Miss, ...]
    usd_per_hour: float


class Search:
    """Rented accelerators and the engine that drives them."""

    def __init__(self, catalog: Catalog, seed: int) -> None:
        self._catalog, self._seed = catalog, seed
        self.engine = accelerator_engine(catalog)

    def best(self, demand: Demand, models: Iterable[ModelSpec], offers: Iterable[Offer]) -> Sized | None:
        """The cheapest candidate that holds its limits, else the one that breaks the fewest; None when none fits."""
        best: Sized | None = None
        for candidate in self.ranked(demand, tuple(models)[:MODELS_TRIED], cheapest(offers))[:SIMULATED]:
            if best is not None and not best.misses and candidate.usd_per_hour >= best.usd_per_hour:
                break
            sized = self._sized(demand, candidate)
            best = sized if best is None else min(best, sized, key=_order)
        return best

    def ranked(self, demand: Demand, models: Iterable[ModelSpec], offers: list[Offer]) -> list[Candidate]:
        found = (self._candidate(demand, model, offer) for model in models for offer in offers)
        kept = [candidate for candidate in found if candidate is not None]
        return sorted(kept, key=lambda c: (c.usd_per_hour, c.spec.model.parameters, c.offer.id))

    def _candidate(self, demand: Demand, model: ModelSpec, offer: Offer) -> Candidate | None:
        spec = self._spec(demand, model, offer)
        if spec is None:
            return None
        replicas = max(1, math.ceil(demand.peak_at_horizon / bound_requests_per_s(spec)))
        return Candidate(offer, spec, replicas, hourly(demand, offer, replicas))

    def _spec(self, demand: Demand, model: ModelSpec, offer: Offer) -> ServingSpec | None:
        """With the most slots that fit, by halving; None when not even one does."""
        device = self._catalog.accelerators[offer.accelerator or ""]
        quantisation = quantisation_for(self.engine, device)
        spec = ServingSpec(
            model=model,
            engine=self.engine,
            efficiency=self._catalog.efficiency(self.engine.id, quantisation, device.kind),
            hardware=hardware_of_accelerator(device, offer.accelerator_count, quantisation),
            quantisation=quantisation,
            bits_per_weight=self._catalog.quantisations[quantisation].bits_per_weight,
            file_bytes=None,
            load=load_of(demand, model.id, MOST_SLOTS, self._seed),
            slots=MOST_SLOTS,
            context_tokens=context_of(demand, model),
            replicas=1,
            batch_tokens=BATCH_TOKENS,
        )
        while not fits(spec):
            if spec.slots == 1:
                return None
            spec = replace(spec, slots=spec.slots // 2)
        return spec

    def _sized(self, demand: Demand, candidate: Candidate) -> Sized:
        """Least replicas that hold: doubled from the bound until they do, then halved in between."""
        first = tried = self._at(demand, candidate, candidate.replicas)
        while tried.misses and tried.spec.replicas < candidate.replicas * REACH:
            low, tried = tried.spec.replicas, self._at(demand, candidate, tried.spec.replicas * 2)
        if tried.misses or tried is first:
            return tried if _order(tried) < _order(first) else first
        best = tried
        while best.spec.replicas - low > 1:
            tried = self._at(demand, candidate, (low + best.spec.replicas) // 2)
            low, best = (tried.spec.replicas, best) if tried.misses else (low, tried)
        return best

    def _at(self, demand: Demand, candidate: Candidate, replicas: int) -> Sized:
        spec = candidate.spec
        load = load_of(demand, spec.model.id, spec.slots * replicas, self._seed)
        load = replace(load, peak_s=peak_seconds(demand.peak_at_horizon / replicas))
        spec = replace(spec, replicas=replicas, load=load)
        misses = broken(spec, demand.workload.slo)
        return Sized(candidate.offer, spec, misses, hourly(demand, candidate.offer, replicas))


def _order(sized: Sized) -> tuple[int, float, str]:
    return (len(sized.misses), sized.usd_per_hour, sized.offer.id)


def mean_machines(demand: Demand, replicas: int, load_factor: float = 1.0) -> float:
    """Machines with their spares, month by month, averaged. `replicas` carry the busiest month; `load_factor` scales
    the load against that.
    """
    top, target = max(demand.growth), demand.workload.slo.availability
    counts = [max(1, math.ceil(replicas * growth / top * load_factor - 1e-9)) for growth in demand.growth]
    return sum(count + spares_for(count, target) for count in counts) / len(counts)


def hourly(demand: Demand, offer: Offer, replicas: int) -> float:
    """USD an hour, mean over the horizon: few big machines need as many spares as many small ones."""
    return mean_machines(demand, replicas) * (offer.on_demand_usd_per_hour or 0.0)


def cheapest(offers: Iterable[Offer]) -> list[Offer]:
    """Of each accelerator and count the cheapest machine: a bigger host does not make an engine faster."""
    best: dict[tuple[str | None, int], Offer] = {}
    for offer in sorted(offers, key=lambda o: (o.on_demand_usd_per_hour or 0.0, o.id)):
        best.setdefault((offer.accelerator, offer.accelerator_count), offer)
    return list(best.values())


def accelerator_engine(catalog: Catalog) -> EngineSpec:
    """The first engine of the table that runs on accelerators and answers over HTTP."""
    for engine in catalog.engines.values():
        if engine.kind == "gpu" and engine.openai_http and not engine.embedded:
            return engine
    raise CatalogError("AW-CAT-30", "no engine in the catalog runs on accelerators", hint="add a row to engines")


def quantisation_for(engine: EngineSpec, device: Accelerator) -> str:
    """Eight bits where both multiply them, else sixteen: neither moves quality figures noticeably."""
    return NARROW if NARROW in engine.quantisations and NARROW in device.flops else WIDE


def bound_requests_per_s(spec: ServingSpec) -> float:
    """Requests a second of a replica whose slots are always full and whose prompts never wait."""
    reads, writes = spec.load.input_tokens.mean, spec.load.output_tokens.mean
    weights = weights_bytes(spec.model, spec.bits_per_weight)
    rates = Roofline(spec.model, weights, spec.efficiency, spec.hardware)
    step_s = rates.decode_s(spec.slots, reads + writes / 2)
    return 1 / (rates.prefill_s(round(reads)) + writes * step_s / spec.slots)


def peak_seconds(rate: float) -> float:
    """The length of the peak: shorter where a replica sees so many requests that more teach nothing."""
    return float(min(PEAK_S, max(LEAST_PEAK_S, round(PEAK_REQUESTS / rate))))


def broken(spec: ServingSpec, slo: SLO) -> tuple[Miss, ...]:
    """The latency limits that one run at the predicted speed breaks: a prediction's values, without their bands."""
    found, misses = peak_run(one_replica(spec), 1.0), list[Miss]()
    judge_latency(spec.load, slo, (exact(found.ttft_p95_s, "s"), exact(found.tpot_p95_s, "s")), (misses, []))
    return tuple(misses)
