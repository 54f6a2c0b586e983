"""The same question asked of a second pool, to compare: nobody waits for it, nobody pays for it.

Decides that a shadow can only lose: it is dropped where its pool is busy, where too many of them run, and when its
time is over; what goes wrong with it is a finding, never an error of the request it follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from archwright.errors import ArchwrightError, boundary
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.replica import SlotRequest

# At most so many at once in a process, each with a body and an answer in memory.
MAX_SHADOWS = 64
SHADOW_TIMEOUT_S = 120.0

Verdict = Literal["same", "different", "failed"]


class ShadowComparison(NamedTuple):
    """`similarity` is the share of words that both answers have at the same place; `latency_s` the shadow's."""

    request_id: str
    pool: str
    version: str
    verdict: Verdict
    similarity: float
    latency_s: float


class ShadowTraffic:
    """`compared` learns of each one that came to an end."""

    def __init__(self, now: Callable[[], float], compared: Callable[[ShadowComparison], None]) -> None:
        self._now = now
        self._compared = compared
        self._running: set[asyncio.Task[None]] = set()

    def mirror(
        self, request_id: str, pool: EnginePool, work: SlotRequest, asked: tuple[str, dict[str, Any]]
    ) -> asyncio.Future[str] | None:
        """Ask (path, body) there as well. The future takes the answer the client got, or is cancelled where it got
        none; None: dropped."""
        if len(self._running) >= MAX_SHADOWS:
            return None
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()
        task = loop.create_task(self._run_shadow(request_id, pool, work, asked, answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return answer

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run_shadow(
        self,
        request_id: str,
        pool: EnginePool,
        work: SlotRequest,
        asked: tuple[str, dict[str, Any]],
        answer: asyncio.Future[str],
    ) -> None:
        begun, version, said = self._now(), pool.spec.serves, None
        try:
            with boundary("shadow"):  # the engine may say anything
                async with asyncio.timeout(SHADOW_TIMEOUT_S):
                    version, said = await self._query_shadow(pool, work, asked)
        except ArchwrightError:
            pass  # said stays None: it failed
        latency_s = self._now() - begun
        if said is None:
            self._compared(ShadowComparison(request_id, pool.name, version, "failed", 0.0, latency_s))
            return
        try:
            async with asyncio.timeout(SHADOW_TIMEOUT_S):
                theirs = await answer
        except TimeoutError:
            return  # the client's own answer never ended: nothing to compare with
        verdict: Verdict = "same" if said == theirs else "different"
        self._compared(
            ShadowComparison(request_id, pool.name, version, verdict, word_similarity(said, theirs), latency_s)
        )

    async def _query_shadow(
        self, pool: EnginePool, work: SlotRequest, asked: tuple[str, dict[str, Any]]
    ) -> tuple[str, str]:
        path, body = asked
        lease = await pool.acquire(replace(work, priority="batch"))
        sent_at = self._now()
        lease.replica.record_sent(sent_at)
        ended = False
        try:
            put = lease.replica.provider.build_request(path, body, None)
            pieces = [_event_text(event) async for event in lease.replica.client.stream(put.path, put.body)]
            ended = True
            return lease.replica.version, "".join(pieces)
        finally:
            lease.replica.record_end("ok" if ended else "failed", self._now(), sent_at)
            pool.release(lease)


def word_similarity(one: str, other: str) -> float:
    """From 0 to 1: the share of the longer one's words that the other has at the same place."""
    left, right = one.split(), other.split()
    longest = max(len(left), len(right))
    return sum(a == b for a, b in zip(left, right, strict=False)) / longest if longest else 1.0


def _event_text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    found = choices[0].get("text") or (choices[0].get("delta") or {}).get("content")
    return found if isinstance(found, str) else ""
