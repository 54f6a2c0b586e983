"""Run a test that is a coroutine function, in its own event loop and with a time limit."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from tests.tools.checks import WAIT_S

P = ParamSpec("P")


def run_async(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            limit = asyncio.timeout(WAIT_S)
            try:
                async with limit:
                    await test(*args, **kwargs)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise AssertionError(f"{test.__name__} has not ended after {WAIT_S:g} s") from error

        asyncio.run(bounded())

    return run
