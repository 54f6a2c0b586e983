"""What serving, lake and training know of an engine: where it is, how to ask it, how to see that it is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from archwright.errors import EngineError, ErrorLocation
from archwright.http_client.client import EngineClient


class InferenceEngine(Protocol):
    """Implemented by `EmbeddedEngine` (llama.cpp and null processes) and `ExternalEngine`.

    One conformance suite, tests/engines/test_conformance.py, runs against all of them."""

    address: str
    health_path: str

    def client(self) -> EngineClient: ...


async def wait_until_ready(
    engine: InferenceEngine,
    deadline_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> float:
    """Seconds until the engine's health page first answered. Raises EngineError AW-ENG-09 after `deadline_s`."""
    client, begin = engine.client(), clock()
    try:
        while not await client.healthy(engine.health_path):
            if clock() - begin > deadline_s:
                hint = "its log in the home says what it waits for"
                message = f"the engine was not ready within {deadline_s:g} s"
                raise EngineError("AW-ENG-09", message, where=ErrorLocation(engine.address), hint=hint)
            await sleep(0.05)
    finally:
        await client.close()
    return clock() - begin
