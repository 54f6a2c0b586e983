"""A version at an endpoint with several pools: while it is served, the other pools get no requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec
import pytest

from archwright import api
from archwright.api.models import ModelCard
from archwright.cli import show_models
from archwright.contract.listener import ListenerSettings
from archwright.contract.plan import Launch, Plan
from archwright.contract.record import replace
from archwright.deploy.single_machine import build_bundle
from archwright.operate.desired_state import DesiredVersion, PlatformLayout
from archwright.serving.settings.config import GatewayConfig, check_config

from ..api.test_serving import Upstream
from .conftest import BASE, ENDPOINT
from .test_rollout import chat

if TYPE_CHECKING:
    from archwright.contract.lineage import ModelVersion

    from .conftest import Stage

pytestmark = pytest.mark.enable_socket
ENOUGH = 40  # requests that two pools of equal weight share: one of them without any is a chance of 2^-40


def mixed(plan: Plan, *urls: str) -> Plan:
    """The plan's pool and another on-premises pool; a second URL adds a cloud pool for overflow."""
    own = replace(plan.pools[0], slots=8, launch=replace(plan.pools[0].launch, settings={"ttft_s": 0.0, "tpot_s": 0.0}))
    more = [
        replace(own, name=name, placement=placement, country="DE", launch=Launch(engine="external", url=url))
        for (name, placement), url in zip((("more", "on-premises"), ("cloud", "cloud")), urls, strict=False)
    ]
    return replace(plan, pools=(own, *more))


@pytest.fixture
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with ExitStack() as stack:
        made = stack.enter_context(Upstream()), stack.enter_context(Upstream())
        yield made
        for one in made:
            one.shutdown()


def answered(stage: Stage, count: int = ENOUGH) -> set[str]:
    return {chat(stage, max_tokens=4).version for _ in range(count)}


def test_the_pools_that_do_not_hold_a_version_are_left_out(
    stage: Stage, upstreams: tuple[Upstream, Upstream], capsys: pytest.CaptureFixture[str]
) -> None:
    version, (more, cloud) = stage.version(), upstreams
    stage.start(mixed(stage.plan, more.url, cloud.url))
    assert answered(stage) == {BASE} and more.asked, "both have the plan's model"
    assert api.status().notes == ()
    stage.switch(version)
    more.asked.clear()
    assert answered(stage) == {version.id}
    assert not more.asked and not cloud.asked
    (note,) = api.status().notes
    assert note.startswith(f"only {version.id} serves {ENDPOINT}: more, cloud cannot serve it")
    card = api.models.show(version.id)
    assert isinstance(card, ModelCard) and card.left_out == ("more", "cloud")
    show_models.print_model(card)
    assert "excluded    more, cloud cannot serve it" in capsys.readouterr().out
    stage.switch(None)
    assert answered(stage) == {BASE} and more.asked, "they are back"
    assert api.status().notes == ()
    card = api.models.show(version.id)
    assert isinstance(card, ModelCard) and card.left_out == ()


def test_what_is_configured_while_a_version_serves(null_plan: Plan, stage: Stage) -> None:
    layout = PlatformLayout(build_bundle(mixed(null_plan, "http://a:1/v1", "http://b:1/v1"), ListenerSettings(), ""))
    version: ModelVersion = stage.version()

    def served(to: DesiredVersion) -> tuple[GatewayConfig, tuple[str, ...]]:
        serving = layout.endpoint_of_version(ENDPOINT, to)
        config = msgspec.convert(layout.build_gateway_process([serving], 7).config, GatewayConfig)
        check_config(config)
        return config, serving.left_out

    config, left_out = served(DesiredVersion())
    (spec,) = config.endpoints
    assert [target.pool for target in spec.targets] == ["assistant", "more"] and spec.overflow == ("cloud",)
    assert left_out == ()
    config, left_out = served(DesiredVersion("assistant#1", version))
    (spec,) = config.endpoints
    assert [target.pool for target in spec.targets] == ["assistant"] and spec.overflow == ()
    assert [pool.name for pool in config.pools] == ["assistant"] and left_out == ("more", "cloud")
