"""A pool of this machine, an option with it, and a plan of nothing; a test replaces the fields that it is about."""

from __future__ import annotations

from archwright.contract.plan import Launch, Option, Plan, Pool

POOL = Pool(
    name="assistant",
    model="null-model",
    workloads=("assistant",),
    placement="this-machine",
    provider="this-machine",
    region="DE",
    machine="this machine",
    accelerator="cpu",
    accelerator_count=1,
    replicas=1,
    slots=2,
    context_tokens=2048,
    default_max_tokens=32,
    quantisation="none",
    launch=Launch(engine="null", settings={"ttft_s": 0.02, "tpot_s": 0.005}),
)
OPTION = Option(
    name="this-machine",
    placement="this-machine",
    provider="this-machine",
    regions=("DE",),
    feasible=True,
    misses=(),
    total_cost=None,
    cost_per_month=None,
    capex=None,
    pools=(POOL,),
)
PLAN = Plan(
    needs_file="needs.yaml",
    needs_digest="0" * 64,
    catalog_digest="0" * 64,
    created_at="2026-11-24T00:00:00+00:00",
    organisation="Test",
    currency="EUR",
    horizon_months=12,
    chosen=None,
    options=(),
    workloads=(),
    pools=(),
    predictions=(),
    controls=(),
    assumptions=(),
    bases=(),
)
