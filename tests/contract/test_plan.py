"""Plan: the digest covers everything but the time of writing; records refuse what they do not know."""

from __future__ import annotations

import msgspec
import pytest

from archwright.contract.plan import Plan, WorkloadPlan
from archwright.contract.record import Record, replace


def test_the_digest_leaves_out_only_the_time_of_writing(null_plan: Plan) -> None:
    assert replace(null_plan, created_at="later").digest == null_plan.digest
    pools = (replace(null_plan.pools[0], slots=5),)
    for changes in ({"currency": "USD"}, {"pools": pools}, {"assumptions": ("y",)}, {"chosen": None}):
        assert replace(null_plan, **changes).digest != null_plan.digest
    assert null_plan.digest is null_plan.digest, "templates read it for each object, so it is computed once"


def test_the_digest_survives_writing_and_reading_and_the_order_of_labels(null_plan: Plan) -> None:
    again = msgspec.json.decode(msgspec.json.encode(null_plan), type=Plan)
    assert (again, again.digest) == (null_plan, null_plan.digest)
    first = null_plan.predictions[0]
    one, other = (
        replace(null_plan, predictions=(replace(first, query=replace(first.query, labels=labels)),))
        for labels in ({"workload": "chat", "model": "m"}, {"model": "m", "workload": "chat"})
    )
    assert one.digest == other.digest


def test_things_are_found_by_name(null_plan: Plan) -> None:
    assert null_plan.pool("assistant") is null_plan.pools[0]
    assert null_plan.basis("null") is null_plan.bases[0]
    with pytest.raises(KeyError, match="side"):
        null_plan.pool("side")
    with pytest.raises(KeyError, match="z"):
        null_plan.basis("z")


def test_records_are_frozen_and_refuse_unknown_fields_and_positions(null_plan: Plan) -> None:
    with pytest.raises(AttributeError):
        null_plan.chosen = "b"  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"tensor": 2, "tesnor": 1}', type=type(null_plan.pools[0].parallelism))
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
