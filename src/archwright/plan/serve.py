"""What every served workload has, wherever it runs: its load, its context, its answer's default length."""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.rows import ModelSpec
from archwright.contract.needs import Length
from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.plan.demand import Demand
from archwright.simulate.serving import ServingPrediction, ServingSpec, predict_serving, startup

CONTEXT_ROOM = 2.0
CONTEXT_STEP = 256


class Served(NamedTuple):
    """One workload and what serves it. `alone`: its engines start on machines of their own, not one after another."""

    demand: Demand
    spec: ServingSpec
    alone: bool = False


def predicted(served: Served) -> ServingPrediction:
    found = predict_serving(served.spec)
    if not served.alone:
        return found
    return replace(found, startup_s=startup(replace(served.spec, replicas=1), found.startup_s.basis))


def load_of(demand: Demand, model: str, concurrency: int, seed: int) -> LoadSpec:
    """The peak of the busiest month: what the plan promises to carry, and what `bench` will drive."""
    return LoadSpec(
        workload=demand.workload.name,
        model=model,
        requests_per_second=demand.peak_at_horizon,
        input_tokens=demand.input_tokens,
        output_tokens=demand.output_tokens,
        concurrency=concurrency,
        seed=seed,
    )


def context_of(demand: Demand, model: ModelSpec) -> int:
    """Tokens a slot holds: room for long requests, whole steps, never more than the model can."""
    wanted = -(-demand.context_tokens * CONTEXT_ROOM // CONTEXT_STEP) * CONTEXT_STEP
    return min(int(wanted), model.context_tokens)


def default_max_tokens(output: Length) -> int:
    """What an answer may take when the request does not say: the 95th percentile the needs name."""
    return max(1, round(output.p95))
