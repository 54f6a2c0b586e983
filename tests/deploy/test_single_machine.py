"""A plan becomes a process list that the run wing can read."""

from __future__ import annotations

import msgspec
import pytest

from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.deploy.single_machine import Listen, bundle
from archwright.engines.config import EngineConfig
from archwright.errors import PlanError
from archwright.serving.config import GatewayConfig

LISTEN = Listen("127.0.0.1", 8470)


def test_one_engine_a_replica_then_the_gateway(null_plan: Plan) -> None:
    pool = replace(null_plan.pools[0], replicas=2)
    built = bundle(replace(null_plan, pools=(pool,)), LISTEN, "sqlite://")
    assert [process.name for process in built.processes] == ["engine-assistant", "engine-assistant-1", "gateway"]
    assert built.processes[-1].after == ("engine-assistant", "engine-assistant-1")
    assert built.url == "http://127.0.0.1:8470"


def test_the_run_wing_reads_what_the_design_wing_writes(null_plan: Plan) -> None:
    """The wings do not import each other: here the two ends are held together."""
    built = bundle(null_plan, LISTEN, "sqlite://")
    engine = msgspec.convert(built.processes[0].config, EngineConfig)
    gateway = msgspec.convert(built.processes[-1].config, GatewayConfig)
    assert engine.socket == built.processes[0].ready_socket
    assert gateway.pools[0].addresses == (f"unix:{engine.socket}",)
    assert gateway.plan_digest == null_plan.digest
    assert gateway.pools[0].slots == engine.slots == null_plan.pools[0].slots


def test_an_external_engine_has_no_process(null_plan: Plan) -> None:
    launch = replace(null_plan.pools[0].launch, engine="external", url="http://127.0.0.1:9/v1")
    pool = replace(null_plan.pools[0], launch=launch)
    built = bundle(replace(null_plan, pools=(pool,)), LISTEN, "sqlite://")
    assert [process.name for process in built.processes] == ["gateway"]
    gateway = msgspec.convert(built.processes[0].config, GatewayConfig)
    assert gateway.pools[0].addresses == ("http://127.0.0.1:9/v1",)


def test_a_choice_for_elsewhere_is_refused(null_plan: Plan) -> None:
    cloud = replace(null_plan.pools[0], placement="cloud")
    for plan in (
        replace(null_plan, pools=(cloud,)),
        replace(null_plan, chosen=None),
        replace(null_plan, pools=()),
    ):
        with pytest.raises(PlanError) as caught:
            bundle(plan, LISTEN, "sqlite://")
        assert caught.value.code == "AW-PLAN-20"


def test_urls() -> None:
    assert Listen("::1", 1).url == "http://[::1]:1"
    assert Listen("0.0.0.0", 443, "c.pem", "k.pem").url == "https://0.0.0.0:443"
