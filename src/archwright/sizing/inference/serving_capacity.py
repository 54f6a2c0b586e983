"""What one machine carries of a text workload: of its possible layouts (engine_layout.py) the one that breaks the
fewest limits and then carries the most requests/s within them (open_loop.py), with the band of its engine's speed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import Estimate, sum_estimates
from archwright.contract.evidence import Basis
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import ConstraintViolation
from archwright.sizing.hardware.device_rates import busy_w
from archwright.sizing.hardware.machine import Machine, Steady
from archwright.sizing.hardware.uncertainty import widened
from archwright.sizing.inference.deployment_layout import engines
from archwright.sizing.inference.engine_instance import Engine, Requests
from archwright.sizing.inference.open_loop import ASSUMED, UTILISED, Flow, Most, OpenLoop, flow_of
from archwright.sizing.step_time.engine_step_times import Pace

# The formulas against the event simulation of the same steps (`test_serving_capacity_simulation`).
TTFT_FORMULA, TPOT_FORMULA = 1.25, 1.10
CAPACITY_FORMULA = 1.15


class TextLoad(NamedTuple):
    """Requests of a text workload and the limits they are answered within."""

    workload: str
    input_tokens: TokenLength
    output_tokens: TokenLength
    slo: SLO

    @property
    def requests(self) -> Requests:
        return Requests(self.input_tokens, self.output_tokens)

    @property
    def flow(self) -> Flow:
        return flow_of(self.input_tokens, self.output_tokens)


def steady_text(machine: Machine, model: ModelSpec, load: TextLoad, catalog: Catalog) -> Steady | None:
    """None where no engine of the catalog drives the machine, or the model does not fit it."""
    found = [
        (_most(engine.pace, load.flow, engine.slots, engine.chunk, load.slo), engine)
        for engine in engines(machine, model, load.requests, catalog)
    ]
    if not found:
        return None
    most, engine = min(found, key=lambda pair: (len(pair[0].broken), -pair[0].point.rate * pair[1].copies))
    return _steady(machine, model, load, (most, engine), catalog)


@lru_cache(maxsize=4096)
def _most(pace: Pace, flow: Flow, slots: int, chunk: int, slo: SLO) -> Most:
    return OpenLoop(pace, flow, slots, chunk).most(slo)


def _steady(
    machine: Machine, model: ModelSpec, load: TextLoad, chosen: tuple[Most, Engine], catalog: Catalog
) -> Steady:
    (point, broken), engine = chosen
    steps, first = engine.speed.steps, engine.speed.first
    carried, waited = bases = _bases(machine, model, load, engine)
    rate = _rate(point.rate * engine.copies, steps, carried.id)
    ttft = _times(point.ttft_p95_s, first, TTFT_FORMULA, waited.id)
    tpot = _times(point.tpot_p95_s, steps, TPOT_FORMULA, waited.id)
    rest = max(load.output_tokens.mean - 1, 0.0)
    return Steady(
        model=model.id,
        requests_per_s=rate,
        latency_p95_s=sum_estimates([ttft, tpot.scaled(rest)], "s", waited.id),
        ttft_p95_s=ttft,
        tpot_p95_s=tpot,
        engine=engine.product.id,
        quantisation=engine.quantisation,
        engines=engine.copies,
        devices=engine.devices,
        parallelism=engine.parallelism,
        slots=engine.slots,
        context_tokens=engine.context_tokens,
        busy_w=busy_w(machine, catalog, accelerated=engine.devices > 0),
        bases=bases,
        misses=_misses(model, load, broken),
        assumptions=(*engine.assumptions, ASSUMED),
    )


def _rate(value: float, steps: Estimate, basis: str) -> Estimate:
    """Requests/s go as the inverse of the steps' times."""
    return widened(value, (value * (1 / steps.high), value * (1 / steps.low)), CAPACITY_FORMULA, "requests/s", basis)


def _times(value: float, band: Estimate, formula: float, basis: str) -> Estimate:
    return widened(value, (value * band.low, value * band.high), formula, "s", basis)


def _misses(model: ModelSpec, load: TextLoad, broken: tuple[tuple[str, float], ...]) -> tuple[ConstraintViolation, ...]:
    """Limits an idle machine breaks, and requests longer than the model can read."""
    found = [
        ConstraintViolation(constraint=f"{load.workload}.{name}", value=at, limit=getattr(load.slo, name))
        for name, at in broken
    ]
    longest = load.input_tokens.p95 + load.output_tokens.p95
    if longest > model.context_tokens:
        limit = float(model.context_tokens)
        found.append(ConstraintViolation(constraint=f"{load.workload}.context_tokens", value=longest, limit=limit))
    return tuple(found)


def _bases(machine: Machine, model: ModelSpec, load: TextLoad, engine: Engine) -> tuple[Basis, Basis]:
    """Of the requests/s and of the latencies."""
    name, speed = f"{load.workload}.{{}}.{model.id}.{machine.id}", engine.speed
    reads, writes = load.input_tokens, load.output_tokens
    lengths = (
        f"prompts of {reads.mean:g} tokens (p95 {reads.p95:g}), answers of {writes.mean:g} (p95 {writes.p95:g}); "
        f"{engine.copies} x {engine.product.id} on {engine.devices or 'no'} accelerators, {engine.quantisation}, "
        f"{engine.slots} places"
    )
    carried = Basis(
        id=name.format("capacity"),
        kind="calibrated",
        stratum=speed.stratum,
        definition="the most Poisson requests/s of one machine at which every p95 limit holds, at most "
        f"{UTILISED:.0%} of where the engine saturates",
        formula="engines x b / (O T): b answers being written, O tokens each, T = decode step + prompts read between",
        facts=(*speed.facts, lengths),
    )
    waited = Basis(
        id=name.format("latency"),
        kind="calibrated",
        stratum=speed.stratum,
        definition="p95 over requests at that load: request received to first content; (last - first token) / "
        "(tokens - 1); time to the last token = TTFT p95 + TPOT p95 x (mean output - 1)",
        formula="prompt alone + M/G/1 wait of prompts; decode step and prompts between at 1 + b + z sqrt(b) answers",
        facts=(*speed.facts, lengths),
    )
    return carried, waited
