"""The gateway.json of a container is what the run wing accepts, with every engine by URL."""

from __future__ import annotations

import msgspec
import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.plan import Option, Plan, Pool, TokenPrice
from archwright.contract.record import replace
from archwright.deploy.containers.gateway_container import GatewayContainer, build_gateway
from archwright.deploy.deployment import build_deployment
from archwright.deploy.render import find_target
from archwright.serving.settings.config import GatewayConfig, check_config

IN_CLUSTER = find_target("kubernetes").engine_url
ON_MACHINE = find_target("compose").engine_url


def build(plan: Plan, option: Option, url: str) -> tuple[GatewayContainer, GatewayConfig]:
    """Return the gateway and its configuration, checked like the RUN wing, without TLS files."""
    found = build_gateway(build_deployment(plan, option, load_catalog(), {}, "1"), url, {})
    config = msgspec.json.decode(found.config, type=GatewayConfig)
    check_config(replace(config, host="127.0.0.1", tls_certificate=None, tls_key=None))
    return found, config


def served(plan: Plan, **changes: object) -> tuple[Plan, Option]:
    """A plan whose chosen option has one pool of a GPU engine with three replicas."""
    launch = replace(plan.pools[0].launch, engine="vllm", settings={})
    pool: Pool = replace(plan.pools[0], name="Chat EU", replicas=3, launch=launch, country="DE", **changes)
    workload = replace(plan.workloads[0], pools=(pool.name,))
    option = replace(plan.options[0], pools=(pool,))
    return replace(plan, options=(option,), pools=(pool,), workloads=(workload,), gateway_workers=2), option


def test_a_cluster_has_one_address_and_a_machine_one_a_replica(null_plan: Plan) -> None:
    plan, option = served(null_plan)
    for url, addresses in (
        (IN_CLUSTER, ("http://engine-chat-eu.archwright-engines.svc:8000/v1",)),
        (ON_MACHINE, tuple(f"http://engine-chat-eu-{n}:8000/v1" for n in range(3))),
    ):
        _, config = build(plan, option, url)
        assert config.pools[0].addresses == addresses
        assert config.pools[0].slots * len(addresses) == 3 * option.pools[0].slots
        assert (config.pools[0].engine, config.pools[0].health_path) == ("vllm", "/health")


def test_the_listener_is_that_of_the_container_contract(null_plan: Plan) -> None:
    found, config = build(*served(null_plan), IN_CLUSTER)
    assert (config.host, config.port, config.admin_port) == ("0.0.0.0", found.port, found.admin_port)
    assert (config.tls_certificate, config.tls_key) == ("/etc/archwright/tls/tls.crt", "/etc/archwright/tls/tls.key")
    assert config.store_url == "env:ARCHWRIGHT_DATABASE_URL"
    assert found.workers == found.cpu == config.workers == 2
    assert found.drain_s > config.limits.drain_s >= 60


def test_an_option_that_the_plan_did_not_choose_has_its_own_pools(null_plan: Plan) -> None:
    plan, option = served(null_plan)
    other = replace(option, name="other", pools=(replace(option.pools[0], name="other"),))
    upstream = replace(option.pools[0], name="hosted", placement="hosted-api", provider="some-api")
    both = replace(plan, options=(option, other), upstreams=(upstream,))
    _, config = build(both, other, IN_CLUSTER)
    assert config.plan_digest == both.digest, "measurements name the plan in plan.json"
    assert [pool.name for pool in config.pools] == ["other"]
    assert [target.pool for target in config.endpoints[0].targets] == ["other"]


def test_a_hosted_model_takes_the_overflow_with_its_key_by_reference(null_plan: Plan) -> None:
    plan, option = served(null_plan)
    price = TokenPrice(input_usd=1e-6, output_usd=2e-6, source="test")
    hosted = {"placement": "hosted-api", "provider": "some-api", "price_per_token": price, "machine": ""}
    upstream = replace(option.pools[0], name="hosted", replicas=1, **hosted)
    found, config = build(replace(plan, upstreams=(upstream,)), option, IN_CLUSTER)
    assert config.endpoints[0].overflow == ("hosted",)
    assert config.pools[1].key == "env:SOME_API_API_KEY" and found.key_variables == ("SOME_API_API_KEY",)
    assert found.open_addresses == {"hosted": "https://some-api.invalid/v1"}


def test_a_pool_at_another_site_has_a_name_of_that_site_and_its_key(null_plan: Plan) -> None:
    plan, option = served(null_plan, placement="on-premises", provider="on-premises", region="DE")
    away = replace(option.pools[0], name="away", placement="cloud", provider="aws", region="eu-west-1", replicas=1)
    option = replace(option, pools=(*option.pools, away))
    found, config = build(replace(plan, options=(option,), pools=option.pools), option, IN_CLUSTER)
    assert found.open_addresses == {}
    assert config.pools[1].addresses == ("https://engine-away.aws-eu-west-1.archwright.internal/v1",)
    assert config.pools[1].key == "env:ENGINES_AWS_EU_WEST_1_KEY" and config.pools[1].health_path == "/health"
    assert found.site_keys == {"ENGINES_AWS_EU_WEST_1_KEY": "engines-aws-eu-west-1"}
    assert found.key_variables == ()
    assert config.endpoints[0].overflow == ("away",)


@pytest.mark.parametrize("url", [IN_CLUSTER, ON_MACHINE])
def test_an_engine_of_our_own_processes_is_served_by_its_image(null_plan: Plan, url: str) -> None:
    plan, option = served(null_plan)
    launch = replace(option.pools[0].launch, engine="llamacpp")
    option = replace(option, pools=(replace(option.pools[0], launch=launch),))
    _, config = build(replace(plan, options=(option,), pools=option.pools), option, url)
    assert config.pools[0].addresses[0].endswith(":8080/v1") and config.pools[0].engine == "llama-server"
