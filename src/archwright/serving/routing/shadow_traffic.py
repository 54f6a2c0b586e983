"""Shadow traffic: the same request to a second pool, for comparison; it is dropped under load and fails silently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from archwright.errors import ArchwrightError, boundary
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.replica import SlotRequest

MAX_SHADOWS = 64  # at once in a process, each with a body and an answer in memory
SHADOW_TIMEOUT_S = 120.0

ShadowVerdict = Literal["same", "different", "failed"]


class ShadowComparison(NamedTuple):
    """`similarity`: the share of equal words at equal places; `latency_s`: the shadow's."""

    request_id: str
    pool: str
    version: str
    verdict: ShadowVerdict
    similarity: float
    latency_s: float


class ShadowTraffic:
    """`compared` is called with each result."""

    def __init__(self, now: Callable[[], float], compared: Callable[[ShadowComparison], None]) -> None:
        self._now = now
        self._compared = compared
        self._running: set[asyncio.Task[None]] = set()

    def mirror(
        self, request_id: str, pool: EnginePool, work: SlotRequest, asked: tuple[str, dict[str, Any]]
    ) -> asyncio.Future[str] | None:
        """Send (path, body) to the pool. The future takes the client's answer, or is cancelled; None: dropped."""
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
        latency_s, similarity = self._now() - begun, 0.0
        verdict: ShadowVerdict = "failed"
        if said is not None:
            try:
                async with asyncio.timeout(SHADOW_TIMEOUT_S):
                    theirs = await answer
            except TimeoutError:
                return  # the client's own answer did not end: nothing to compare with
            verdict, similarity = "same" if said == theirs else "different", word_similarity(said, theirs)
        self._compared(ShadowComparison(request_id, pool.name, version, verdict, similarity, latency_s))

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
    """The share, 0 to 1, of the longer text's words that the other has at the same place."""
    left, right = one.split(), other.split()
    longest = max(len(left), len(right))
    return sum(a == b for a, b in zip(left, right, strict=False)) / longest if longest else 1.0


def _event_text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    found = choices[0].get("text") or (choices[0].get("delta") or {}).get("content")
    return found if isinstance(found, str) else ""
