"""The processes and endpoints that follow from a plan's bundle and the versions in production; nothing runs."""

from __future__ import annotations

import msgspec
import pytest

from archwright.contract.lineage import ModelVersion
from archwright.contract.listener import ListenerSettings
from archwright.contract.plan import Bundle, Launch, Plan
from archwright.contract.record import replace
from archwright.deploy.single_machine import build_bundle
from archwright.home import Home
from archwright.operate.desired_state import (
    NOT_SERVED,
    DesiredVersion,
    PlatformLayout,
    promotion_number,
    read_desired_versions,
)
from archwright.serving.settings.config import GatewayConfig, check_config

from .conftest import Stage

LISTEN = ListenerSettings()


@pytest.fixture
def version(stage: Stage) -> ModelVersion:
    return stage.version()


@pytest.fixture
def layout(null_plan: Plan) -> PlatformLayout:
    return PlatformLayout(build_bundle(null_plan, LISTEN, ""))


def shared(plan: Plan, **changes: object) -> Bundle:
    """Two workloads on one pool of two replicas."""
    pool = replace(plan.pools[0], workloads=("assistant", "night"), replicas=2, **changes)
    return build_bundle(replace(plan, pools=(pool,)), LISTEN, "")


def gateway(layout: PlatformLayout, served: list[DesiredVersion]) -> GatewayConfig:
    servings = [layout.endpoint_of_version(name, to) for name, to in zip(layout.workloads, served, strict=True)]
    config = msgspec.convert(layout.build_gateway_process(servings, 7).config, GatewayConfig)
    check_config(config)
    return config


def test_a_workload_that_shares_its_pool_gets_engines_of_its_own(null_plan: Plan, version: ModelVersion) -> None:
    layout = PlatformLayout(shared(null_plan))
    config = gateway(layout, [DesiredVersion("assistant#1", version), DesiredVersion()])
    assert [(spec.workload, spec.pool) for spec in config.endpoints] == [
        ("assistant", "assistant/assistant"),
        ("night", "assistant"),
    ]
    tuned, plain = config.pools
    assert (tuned.name, tuned.version, tuned.adapter) == ("assistant/assistant", version.id, True)
    assert tuned.addresses == ("unix:engine-assistant.v1", "unix:engine-assistant.v1-1")
    assert (plain.name, plain.serves, plain.addresses[0]) == ("assistant", "null-model", "unix:engine-assistant")
    assert not plain.adapter
    assert config.revision == 7
    engines = layout.endpoint_of_version("assistant", DesiredVersion("assistant#1", version)).engines
    assert [engine.config["adapter_sha256"] for engine in engines] == [version.sha256] * 2
    assert [engine.ready_socket for engine in engines] == [engine.config["socket"] for engine in engines]


def test_workloads_on_the_plans_own_model_share_its_engines(null_plan: Plan) -> None:
    layout = PlatformLayout(shared(null_plan))
    one, two = (layout.endpoint_of_version(name, DesiredVersion()) for name in ("assistant", "night"))
    assert one.key == two.key and one.engines == two.engines and one.version == ""


def test_alone_in_its_pool_a_workload_keeps_the_pools_name(layout: PlatformLayout, version: ModelVersion) -> None:
    config = gateway(layout, [DesiredVersion("assistant#1", version)])
    assert config.endpoints[0].pool == "assistant"
    assert [(pool.name, pool.version) for pool in config.pools] == [("assistant", version.id)]


def test_a_classifier_has_an_endpoint_only_while_in_production(layout: PlatformLayout, stage: Stage) -> None:
    wear = stage.version("wear", task="tabular-classifier")
    serving = layout.endpoint_of_version("wear", DesiredVersion("wear#1", wear))
    assert serving.spec is not None and serving.spec.kind == "predict" and not serving.pools[0].adapter
    assert serving.engines[0].config["engine"] == "onnx"
    assert layout.endpoint_of_version("wear", DesiredVersion("wear#2")) == NOT_SERVED
    assert not layout.has_no_workload("wear", wear) and layout.has_no_workload("poet", stage.version("poet"))


def test_why_a_version_cannot_be_served(layout: PlatformLayout, stage: Stage, home: Home) -> None:
    version = stage.version()
    assert layout.find_obstacle("assistant", version, home) == ""
    classifier = stage.version(task="image-classifier")
    assert "is a classifier" in layout.find_obstacle("assistant", classifier, home)
    engine = layout.endpoint_of_version("assistant", DesiredVersion()).engines[0]
    engine.config["model_sha256"] = "1" * 64
    other = replace(version, base_sha256="2" * 64)
    assert "is an adapter for null-model" in layout.find_obstacle("assistant", other, home)
    assert layout.find_obstacle("assistant", replace(version, base_sha256="1" * 64), home) == ""
    home.model(version.sha256).unlink()
    assert "not in the home" in layout.find_obstacle("assistant", version, home)


def test_a_foreign_engine_takes_no_adapter(null_plan: Plan, version: ModelVersion, home: Home) -> None:
    launch = Launch(engine="external", url="http://127.0.0.1:9/v1")
    pool = replace(null_plan.pools[0], launch=launch)
    layout = PlatformLayout(build_bundle(replace(null_plan, pools=(pool,)), LISTEN, ""))
    assert "http://127.0.0.1:9/v1" in layout.find_obstacle("assistant", version, home)
    assert layout.endpoint_of_version("assistant", DesiredVersion()).engines == ()


def test_a_second_model_of_a_workload_stays(null_plan: Plan, version: ModelVersion) -> None:
    other = replace(null_plan.pools[0], name="other", model="other-model")
    layout = PlatformLayout(build_bundle(replace(null_plan, pools=(*null_plan.pools, other)), LISTEN, ""))
    assert list(layout.workloads) == ["assistant", "assistant/other-model"]
    config = gateway(layout, [DesiredVersion("assistant#1", version), DesiredVersion()])
    assert [pool.serves for pool in config.pools] == [version.id, "other-model"]


def test_the_desired_state_is_what_is_in_production(stage: Stage) -> None:
    first, second = stage.version(), stage.version("wear", task="tabular-classifier")
    stage.change(first)
    stage.change(second, "wear")
    stage.change(None)
    found = read_desired_versions(stage.store)
    assert (found["assistant"], found["wear"].version) == (DesiredVersion("assistant#2"), second)
    assert [promotion_number(found[name].promotion) for name in ("assistant", "wear")] == [2, 1]
    assert promotion_number("") == 0
