"""Plan: the digest covers everything but the time of writing; records refuse what they do not know."""

from __future__ import annotations

import msgspec
import pytest

from archwright.contract.estimate import exact_estimate
from archwright.contract.evidence import Basis, Prediction, Query
from archwright.contract.plan import Launch, Plan, Pool, WorkloadPlan
from archwright.contract.record import Record, replace

POOL = Pool(
    name="main",
    model="m",
    workloads=("chat",),
    placement="this-machine",
    provider="this-machine",
    region="DE",
    machine="this",
    accelerator="cpu",
    accelerator_count=1,
    replicas=1,
    slots=4,
    context_tokens=2048,
    default_max_tokens=256,
    quantisation="q4_1",
    launch=Launch(engine="null"),
)
PLAN = Plan(
    needs_file="needs.yaml",
    needs_digest="n",
    catalog_digest="c",
    created_at="2026-01-01T00:00:00Z",
    organisation="o",
    currency="EUR",
    horizon_months=12,
    chosen="a",
    options=(),
    workloads=(WorkloadPlan(name="chat", model="m", pools=("main",)),),
    pools=(POOL,),
    predictions=(
        Prediction(
            id="chat.ttft_s.p95",
            metric="ttft_s",
            workload="chat",
            estimate=exact_estimate(0.2, "s", "b"),
            query=Query(metric="ttft_s", labels={"workload": "chat", "model": "m"}, statistic="p95", window_s=45),
        ),
    ),
    controls=(),
    assumptions=("x",),
    bases=(Basis(id="b", kind="assumed", stratum="s", definition="d"),),
)


def test_the_digest_leaves_out_only_the_time_of_writing() -> None:
    assert replace(PLAN, created_at="later").digest == PLAN.digest
    for changed in (
        replace(PLAN, currency="USD"),
        replace(PLAN, pools=(replace(POOL, slots=5),)),
        replace(PLAN, assumptions=()),
        replace(PLAN, chosen=None),
    ):
        assert changed.digest != PLAN.digest


def test_the_digest_survives_writing_and_reading_and_the_order_of_labels() -> None:
    again = msgspec.json.decode(msgspec.json.encode(PLAN), type=Plan)
    assert again == PLAN
    assert again.digest == PLAN.digest
    query = replace(PLAN.predictions[0].query, labels={"model": "m", "workload": "chat"})
    assert replace(PLAN, predictions=(replace(PLAN.predictions[0], query=query),)).digest == PLAN.digest


def test_things_are_found_by_name() -> None:
    assert PLAN.pool("main") is PLAN.pools[0]
    assert PLAN.basis("b") is PLAN.bases[0]
    with pytest.raises(KeyError, match="side"):
        PLAN.pool("side")
    with pytest.raises(KeyError, match="z"):
        PLAN.basis("z")


def test_records_are_frozen_and_refuse_unknown_fields_and_positions() -> None:
    with pytest.raises(AttributeError):
        PLAN.chosen = "b"  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"tensor": 2, "tesnor": 1}', type=type(POOL.parallelism))
    with pytest.raises(TypeError):
        WorkloadPlan("chat", "m", ("main",))  # type: ignore[call-arg]


class _Older(Record):
    a: int


class _Newer(_Older):
    b: int = 2


def test_subclasses_keep_the_rules() -> None:
    assert replace(_Newer(a=1), b=3) == _Newer(a=1, b=3)
    with pytest.raises(TypeError):
        _Newer(1)  # type: ignore[call-arg]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"a": 1, "c": 1}', type=_Newer)
