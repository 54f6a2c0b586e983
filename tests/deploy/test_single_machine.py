"""A plan becomes a list of processes that the RUN wing can read."""

from __future__ import annotations

import msgspec
import pytest

from archwright.contract.listener import AlertSpec, ListenerSettings, TraceSpec
from archwright.contract.needs import Sensitivity
from archwright.contract.plan import Plan, QueueTimeouts, TokenPrice
from archwright.contract.record import as_dict, replace
from archwright.deploy.single_machine import ExternalEndpoints, build_bundle
from archwright.engines.engine_config import EngineConfig
from archwright.errors import PlanError
from archwright.serving.settings.config import GatewayConfig, WeightedTarget, check_config, is_outside_residency

LISTEN = ListenerSettings()


def test_one_engine_a_replica_then_the_gateway(null_plan: Plan) -> None:
    pool = replace(null_plan.pools[0], replicas=2)
    built = build_bundle(replace(null_plan, pools=(pool,)), LISTEN, "sqlite://")
    assert [process.name for process in built.processes] == ["engine-assistant", "engine-assistant-1", "gateway"]
    assert built.processes[-1].after == ("engine-assistant", "engine-assistant-1")
    assert built.url == "http://127.0.0.1:8470"


def test_the_run_wing_reads_what_the_design_wing_writes(null_plan: Plan) -> None:
    """The wings do not import each other, so this test compares both ends."""
    built = build_bundle(null_plan, LISTEN, "sqlite://")
    engine = msgspec.convert(built.processes[0].config, EngineConfig)
    gateway = msgspec.convert(built.processes[-1].config, GatewayConfig)
    assert engine.socket == built.processes[0].ready_socket
    assert gateway.pools[0].addresses == (f"unix:{engine.socket}",)
    assert gateway.plan_digest == null_plan.digest
    assert gateway.pools[0].slots == engine.slots == null_plan.pools[0].slots
    assert gateway.pools[0].own and gateway.workers == 1


def test_a_template_with_tools_gets_the_calls_that_the_model_may_choose(null_plan: Plan) -> None:
    pool = null_plan.pools[0]
    launch = replace(pool.launch, settings={**pool.launch.settings, "template_tools": True})
    for settings, expected in ((pool.launch, ""), (launch, "template")):
        changed = replace(null_plan, pools=(replace(pool, launch=settings),))
        gateway = msgspec.convert(build_bundle(changed, LISTEN, "sqlite://").processes[-1].config, GatewayConfig)
        assert gateway.pools[0].tools == expected


def test_an_external_engine_has_no_process(null_plan: Plan) -> None:
    launch = replace(null_plan.pools[0].launch, engine="external", url="http://127.0.0.1:9/v1")
    pool = replace(null_plan.pools[0], launch=launch)
    built = build_bundle(replace(null_plan, pools=(pool,)), LISTEN, "sqlite://")
    assert [process.name for process in built.processes] == ["gateway"]
    gateway = msgspec.convert(built.processes[0].config, GatewayConfig)
    assert gateway.pools[0].addresses == ("http://127.0.0.1:9/v1",)


def refusal(plan: Plan, reached: dict[str, ExternalEndpoints] | None = None) -> PlanError:
    with pytest.raises(PlanError) as caught:
        build_bundle(plan, LISTEN, "sqlite://", reached or {})
    return caught.value


def test_a_choice_for_elsewhere_is_refused(null_plan: Plan) -> None:
    cloud = replace(null_plan.pools[0], placement="cloud")
    upstream = replace(cloud, name="hosted", placement="hosted-api")
    trees = replace(null_plan.pools[0], kind="predict")
    for plan, hint in (
        (replace(null_plan, pools=(cloud,)), "archwright up PLAN --engine assistant=URL"),
        (replace(null_plan, pools=(), upstreams=(upstream,)), "archwright up PLAN --engine hosted=URL"),
        (replace(null_plan, chosen=None), "allow: [this-machine]"),
        (replace(null_plan, pools=()), "allow: [this-machine]"),
        (replace(null_plan, pools=(trees,)), "allow: [this-machine]"),
    ):
        refused = refusal(plan)
        assert refused.code == "AW-PLAN-20" and hint in refused.hint


# --- what the gateway is told


URL, AWAY = "http://house:8000/v1", "https://cloud.example.org/v1"
PRICE = TokenPrice(input_usd=1e-6, output_usd=5e-6, source="machines")


def mixed(null_plan: Plan, data_class: Sensitivity | None, residency: tuple[str, ...]) -> Plan:
    """A workload with an on-premises pool and an external pool."""
    launch = replace(null_plan.pools[0].launch, engine="external", settings={})
    where = {"name": "house", "placement": "on-premises", "country": "FR"}
    house = replace(null_plan.pools[0], **where, replicas=3, launch=launch, price_per_token=PRICE)
    away = replace(house, name="away", placement="cloud", country="DE", replicas=1)
    workload = replace(null_plan.workloads[0], data_class=data_class, residency=residency)
    return replace(null_plan, pools=(away, house), workloads=(workload,), gateway_workers=3)


def gateway_of(plan: Plan, reached: dict[str, ExternalEndpoints]) -> GatewayConfig:
    """Read and check the configuration like the RUN wing."""
    built = build_bundle(plan, LISTEN, "sqlite://", reached)
    assert [process.name for process in built.processes] == ["gateway"]
    config = msgspec.convert(built.processes[0].config, GatewayConfig)
    check_config(config)
    return config


REACHED = {
    "house": ExternalEndpoints((URL, f"{URL}/2/v1")),
    "away": ExternalEndpoints((AWAY,), "CLOUD_KEY", ("top_a",)),
}


def test_own_pools_are_targets_and_those_outside_take_what_is_too_much(null_plan: Plan) -> None:
    config = gateway_of(mixed(null_plan, "personal", ("DE", "FR")), REACHED)
    (endpoint,) = config.endpoints
    assert endpoint.targets == (WeightedTarget(pool="house", weight=6.0),) and endpoint.overflow == ("away",)
    assert (endpoint.data_class, endpoint.residency, endpoint.detect) == ("personal", ("DE", "FR"), None)
    pools = {pool.name: pool for pool in config.pools}
    assert (pools["house"].own, pools["house"].place, pools["house"].slots) == (True, "FR", 3)
    assert (pools["away"].own, pools["away"].place, pools["away"].key) == (False, "DE", "env:CLOUD_KEY")
    assert all((pool.price_in_usd, pool.price_out_usd) == (1e-6, 5e-6) for pool in config.pools)
    assert config.workers == 3
    assert [(pool.engine, pool.allow_fields) for pool in config.pools] == [("external", ("top_a",)), ("external", ())]


def test_the_waits_of_the_plan_are_the_gateways(null_plan: Plan) -> None:
    plan = mixed(null_plan, None, ())
    (without,) = gateway_of(plan, REACHED).endpoints
    assert (without.wait_s, without.overflow_wait_s) == (None, 1.0)
    waits = QueueTimeouts(wait_s=0.7, overflow_s=0.5, source="TTFT")
    workload = replace(plan.workloads[0], waits=waits)
    (endpoint,) = gateway_of(replace(plan, workloads=(workload,)), REACHED).endpoints
    assert (endpoint.wait_s, endpoint.overflow_wait_s) == (0.7, 0.5)


def test_without_a_residency_personal_data_stay_on_premises(null_plan: Plan) -> None:
    config = gateway_of(mixed(null_plan, "internal", ()), REACHED)
    found = {pool.name: is_outside_residency(config.endpoints[0], pool) for pool in config.pools}
    assert found == {"house": False, "away": True} and config.endpoints[0].overflow == ("away",)


def test_stricter_data_than_planned_for_go_where_the_plan_says_it_of_them(null_plan: Plan) -> None:
    plan = mixed(null_plan, "personal", ("any",))

    def away(data_class: Sensitivity, health: tuple[str, ...] | None = None) -> bool:
        said: dict[Sensitivity, tuple[str, ...]] = {} if health is None else {"health": health}
        workload = replace(plan.workloads[0], residency_of=said)
        config = gateway_of(replace(plan, workloads=(workload,)), REACHED)
        (spec,) = (pool for pool in config.pools if pool.name == "away")
        return not is_outside_residency(config.endpoints[0], spec, data_class)

    assert away("personal") and not away("health") and not away("payment")
    assert away("health", health=("DE",)) and not away("payment", health=("DE",))
    assert not away("health", health=("FR",))


def test_without_own_pools_no_data_class_is_searched_for(null_plan: Plan) -> None:
    plan = mixed(null_plan, "internal", ())
    away = plan.pools[0]
    plan = replace(plan, pools=(away, replace(away, name="far", replicas=2)))
    (endpoint,) = gateway_of(plan, {"far": REACHED["away"], **REACHED}).endpoints
    assert endpoint.targets == (WeightedTarget(pool="away", weight=2.0), WeightedTarget(pool="far", weight=4.0))
    assert (endpoint.overflow, endpoint.detect) == ((), False)


def test_a_pool_outside_the_residency_is_refused_and_not_written(null_plan: Plan) -> None:
    plan = mixed(null_plan, "health", ("FR",))
    refused = refusal(plan, REACHED)
    assert refused.code == "AW-PLAN-21" and "away is in DE, outside FR" in refused.message
    unknown = replace(plan, pools=(replace(plan.pools[0], country=""),))
    assert "in an unknown country" in refusal(unknown, REACHED).message


def test_machines_that_are_not_there_every_year_may_be_absent(null_plan: Plan) -> None:
    plan = mixed(null_plan, None, ())
    old, new = replace(plan.pools[1], name="old", shares=(1.0, 0.0)), replace(plan.pools[1], shares=(0.0, 1.0))
    both = replace(plan, pools=(old, new))
    assert [pool.name for pool in gateway_of(both, REACHED).pools] == ["house"]
    assert refusal(both).hint.endswith("--engine old=URL --engine house=URL")


def test_a_pool_of_this_machine_may_be_elsewhere_too_and_speak_otherwise(null_plan: Plan) -> None:
    launch = replace(null_plan.pools[0].launch, settings={"protocol": "anthropic"})
    plan = replace(null_plan, pools=(replace(null_plan.pools[0], launch=launch),))
    (pool,) = gateway_of(plan, {"assistant": ExternalEndpoints((URL,))}).pools
    assert (pool.addresses, pool.protocol, pool.health_path) == ((URL,), "anthropic", "")


def test_urls() -> None:
    assert ListenerSettings(host="::1", port=1).root_url == "http://[::1]:1"
    encrypted = ListenerSettings(host="0.0.0.0", port=443, tls_certificate="c.pem", tls_key="k.pem")
    assert encrypted.root_url == "https://0.0.0.0:443"


def test_what_the_settings_say_is_in_the_configuration(null_plan: Plan) -> None:
    def config(listener: ListenerSettings, cache: str) -> GatewayConfig:
        bundle = build_bundle(null_plan, listener, "", cache=cache)
        return msgspec.convert(bundle.processes[-1].config, GatewayConfig)

    assert {spec.cache for spec in config(LISTEN, "off").endpoints} == {"off"}
    chosen = ListenerSettings(
        host="::1",
        port=8480,
        admin_port=8471,
        trusted_proxies=("::1",),
        image_hosts=("a.example",),
        cors_origins=("https://chat.example",),
        tls_certificate="c.pem",
        tls_key="k.pem",
        traces=TraceSpec(url="http://collector:4318"),
        audit_checkpoints="syslog",
        alerts=AlertSpec(webhook="https://hook.example"),
    )
    written = config(chosen, "deterministic")
    assert {name: getattr(written, name) for name in as_dict(chosen)} == as_dict(chosen)
    assert {spec.cache for spec in written.endpoints} == {"deterministic"}


def test_a_start_may_take_several_times_its_prediction_and_engines_share_no_accelerator(null_plan: Plan) -> None:
    first = null_plan.pools[0]
    launch = replace(first.launch, startup_s=150.0, environment={"CUDA_VISIBLE_DEVICES": "0,1,3,4"})
    large = replace(first, launch=launch, accelerator_count=2, replicas=2)
    plain = replace(null_plan, predictions=())
    other = replace(first, name="other", accelerator_count=0)
    one, two, third, gateway = build_bundle(replace(plain, pools=(large, other)), LISTEN, "sqlite://").processes
    assert [one.startup_deadline_s, third.startup_deadline_s, gateway.startup_deadline_s] == [750.0, 60.0, 60.0]
    seen = [process.environment.get("CUDA_VISIBLE_DEVICES") for process in (one, two, third)]
    assert seen == ["0,1", "3,4", None]
    (engine, _) = build_bundle(null_plan, LISTEN, "sqlite://").processes
    assert engine.startup_deadline_s == 100.0, "the platform is predicted up to 20 s"
