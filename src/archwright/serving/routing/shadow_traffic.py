"""Shadow traffic: send the same request to a second pool for comparison.

Shadow requests are dropped under load, and their failures do not affect the client.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from archwright.errors import ArchwrightError, boundary
from archwright.serving.routing.pool import EnginePool
from archwright.serving.routing.replica import Replica, SlotRequest

MAX_SHADOWS = 64  # concurrent in a process; each holds a body and a reply in memory
SHADOW_TIMEOUT_S = 120.0

PathAndBody = tuple[str, dict[str, Any]]
ChooseFields = Callable[[Replica, str], Mapping[str, object]]
ShadowVerdict = Literal["same", "different", "failed"]


class ShadowComparison(NamedTuple):
    """`similarity`: share of equal words at equal positions. `latency_s`: latency of the shadow request."""

    request_id: str
    pool: str
    version: str
    verdict: ShadowVerdict
    similarity: float
    latency_s: float


class ShadowTraffic:
    """Runs shadow requests. `compared` is called with each result; `choose_fields`: of PromptCaches."""

    def __init__(
        self, now: Callable[[], float], compared: Callable[[ShadowComparison], None], choose_fields: ChooseFields
    ) -> None:
        self._now = now
        self._choose_fields = choose_fields
        self._compared = compared
        self._running: set[asyncio.Task[None]] = set()

    def mirror(
        self, request_id: str, pool: EnginePool, work: SlotRequest, request: PathAndBody
    ) -> asyncio.Future[str] | None:
        """Send `request` (path, body) to the pool; None if it is dropped.

        The caller sets the future to the text of the client's reply, or cancels it."""
        if len(self._running) >= MAX_SHADOWS:
            return None
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[str] = loop.create_future()
        task = loop.create_task(self._run_shadow(request_id, pool, work, request, reply))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return reply

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run_shadow(
        self, request_id: str, pool: EnginePool, work: SlotRequest, request: PathAndBody, reply: asyncio.Future[str]
    ) -> None:
        started_at, version, text = self._now(), pool.spec.serves, None
        try:
            with boundary("shadow"):  # the engine may send anything
                async with asyncio.timeout(SHADOW_TIMEOUT_S):
                    version, text = await self._query_shadow(pool, work, request)
        except ArchwrightError:
            pass  # `text` stays None: the shadow request failed
        latency_s, similarity = self._now() - started_at, 0.0
        verdict: ShadowVerdict = "failed"
        if text is not None:
            try:
                async with asyncio.timeout(SHADOW_TIMEOUT_S):
                    client_text = await reply
            except TimeoutError:
                return  # the client's reply did not end, so there is no comparison
            verdict = "same" if text == client_text else "different"
            similarity = word_similarity(text, client_text)
        self._compared(ShadowComparison(request_id, pool.name, version, verdict, similarity, latency_s))

    async def _query_shadow(self, pool: EnginePool, work: SlotRequest, request: PathAndBody) -> tuple[str, str]:
        path, body = request
        lease = await pool.acquire(replace(work, priority="batch"))
        sent_at = self._now()
        lease.replica.record_sent(sent_at)
        ended = False
        try:
            apart = self._choose_fields(lease.replica, work.tenant)
            sent = lease.replica.provider.build_request(path, lease.replica.break_special_tokens(body), None)
            pieces = [
                _event_text(event) async for event in lease.replica.client.stream(sent.path, {**sent.body, **apart})
            ]
            ended = True
            return lease.replica.version, "".join(pieces)
        finally:
            lease.replica.record_end("ok" if ended else "failed", self._now(), sent_at)
            pool.release(lease)


def word_similarity(one: str, other: str) -> float:
    """Return the share (0 to 1) of the longer text's words that both texts have at the same position."""
    left, right = one.split(), other.split()
    longest = max(len(left), len(right))
    return sum(a == b for a, b in zip(left, right, strict=False)) / longest if longest else 1.0


def _event_text(event: dict[str, Any]) -> str:
    choices = event.get("choices") or [{}]
    text = choices[0].get("text") or (choices[0].get("delta") or {}).get("content")
    return text if isinstance(text, str) else ""
