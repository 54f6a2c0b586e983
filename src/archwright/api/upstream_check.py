"""Check upstreams at the start of a gateway, which starts in any case: a key or an address may be corrected later."""

import asyncio
import sys

from archwright.home import Home
from archwright.serving.routing.pool_registry import PoolRegistry
from archwright.serving.settings.config import EnginePoolSpec


def warn_of_upstreams(pools: tuple[EnginePoolSpec, ...], home: Home) -> None:
    """Write a note for each upstream that cannot be reached, or whose key or model name is wrong."""

    async def inspect() -> tuple[str, ...]:
        registry = PoolRegistry(pools, home)
        await registry.inspect_upstreams(0.0)
        await registry.close()
        return registry.list_problems()

    for problem in asyncio.run(inspect()):
        sys.stderr.write(f"note: {problem}\n")
