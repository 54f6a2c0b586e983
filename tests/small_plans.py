"""A pool of this machine, an option with it, and a plan of nothing; a test replaces the fields that it is about."""

from __future__ import annotations

from archwright.contract.estimate import within_factor
from archwright.contract.plan import Launch, MachineFacts, Option, Plan, Pool
from archwright.contract.record import replace

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


def make_facts(*, others: float, steal: float = 0.0, frequency_hz: float | None = None) -> MachineFacts:
    """Make the facts of a machine that was measured under this contention."""
    rate = within_factor(1e10, 1.1, "1/s", "")
    return MachineFacts(
        cores_usable=2,
        memory_bytes=2**33,
        memory_bandwidth_bytes_per_s=rate,
        matmul_flops_per_s=rate,
        disk_write_bytes_per_s=rate,
        disk_free_bytes=2**36,
        isa="avx2",
        gpus=(),
        probed_at=0.0,
        busy_share=others,
        steal_share=steal,
        frequency_hz=frequency_hz,
    )


def plan_under_load(plan: Plan) -> Plan:
    """Return the plan as made on a machine that other programs use wholly: it is judged while other tests run."""
    return replace(plan, machine=make_facts(others=1.0, steal=1.0))
