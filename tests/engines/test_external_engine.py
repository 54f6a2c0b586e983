from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from archwright.engines.embedded_engine import EmbeddedEngine
from archwright.engines.engine_protocol import wait_until_ready
from archwright.engines.external_engine import ExternalEngine
from archwright.errors import EngineError, UsageError
from archwright.home import Home

from .test_engine_config import CONFIG


def test_the_key_is_read_from_the_variable_it_is_named_by() -> None:
    engine = ExternalEngine("https://a/v1", "A_KEY", read={"A_KEY": "secret"}.get)
    assert b"Authorization: Bearer secret\r\n" in engine.client()._encode_request("GET", "/models")
    assert b"Authorization" not in ExternalEngine("https://a/v1").client()._encode_request("GET", "/models")


@pytest.mark.parametrize("value", [None, ""])
def test_a_named_variable_without_a_key(value: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        ExternalEngine("https://a/v1", "A_KEY", read=lambda _: value).client()
    assert refused.value.code == "AW-USE-12" and "A_KEY" in refused.value.message


def test_an_engine_that_never_gets_ready(tmp_path: Path) -> None:
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    engine = EmbeddedEngine(Home(tmp_path), CONFIG)
    with pytest.raises(EngineError) as late:
        asyncio.run(wait_until_ready(engine, 0.2, clock=lambda: now[0], sleep=sleep))
    assert late.value.code == "AW-ENG-09" and engine.address in str(late.value.where)
