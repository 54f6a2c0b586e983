"""Attempts of one request: try pools until one replies or no retry is allowed.

A request is not retried after output reached the client, after an engine rejected its content, or after its deadline,
which bounds every attempt. If a pool is full, unavailable or failed, the next pool gets the request. The same pool gets
it again once if the retry budget allows, so retries do not worsen an outage.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from msgspec.structs import replace

from archwright.errors import EngineError
from archwright.http_client.client import EngineRefused
from archwright.policy.circuit_breaker import AttemptOutcome
from archwright.policy.residency import DataClass
from archwright.serving.http.engine_refusals import describe_upstream_problem
from archwright.serving.http.errors import ApiError, gateway_timeout
from archwright.serving.http.http_request import HttpRequest
from archwright.serving.http.http_response import HttpResponse
from archwright.serving.routing.pool import EnginePool, PoolRemovedError
from archwright.serving.routing.replica import Replica, SlotRequest
from archwright.serving.routing.router import DATA_CLASS_HEADER_BYTES, RoutableRequest, Router

T = TypeVar("T")
LARGE_TEXT_BYTES = 64 * 1024  # the search in a larger body would delay other requests
# Unreachable or disconnected: a retry may succeed. An invalid reply would repeat and be paid twice.
BROKEN_CONNECTION_CODES = ("AW-ENG-01", "AW-ENG-02")
# These statuses concern the engine (key, account, address, load), not the request: another engine may reply.
ENGINE_FAULT_STATUSES = frozenset(map(HTTPStatus, (401, 402, 403, 404, 405, 408, 410, 429)))


class Attempts:
    """The attempts of one request. `pool`: the current or replying pool; `tries`: requests sent.

    The reply must begin by `until` (monotonic clock). `begun`: its first piece was passed on. `late` returns True if a
    cancelled attempt was too slow."""

    def __init__(
        self, router: Router, pools: tuple[EnginePool, ...], until: float, late: Callable[[], bool] = lambda: False
    ) -> None:
        self.pool = pools[0]
        self.tries = 0
        self.queued_s = 0.0
        self.router = router
        self._remaining_pools = list(pools[1:])
        self.until = until
        self._late = late
        self._may_retry_pool = True  # one retry in the same pool is left, where another engine may work
        self._replica: Replica | None = None
        self._sent_at = 0.0
        self._timer: asyncio.Timeout | None = None
        self.begun = False
        self.data_class: DataClass = "internal"
        self.tenant = ""
        self.response: HttpResponse | None = None
        self.background = False
        self.reselect: Callable[[], tuple[EnginePool, ...]] = lambda: pools
        router.budget.record_request()

    @property
    def is_only_engine(self) -> bool:
        """True if the first token's time has no effect: there is no limit for it and no other engine."""
        return not self._remaining_pools and len(self.pool.replicas) == 1 and self.pool.spec.first_token_s is None

    def mark_started(self) -> None:
        """Record the first piece of the reply. No retry is allowed afterwards."""
        if not self.begun and self._replica is not None:
            self.pool.record_first_response(self._replica, self.router.now() - self._sent_at)
        self.begun = True
        if self._timer is not None:
            self._timer.reschedule(None)

    async def run(self, work: SlotRequest, send: Callable[[Replica], Awaitable[T]]) -> T:
        """Return the result of `send` with a replica. Raises the last error, or ApiError 504 if late."""
        work = replace(work, priority="batch") if self.background else work
        while True:
            pool = self.pool
            lease = pool.try_acquire(work)
            if lease is None:
                queued_at = self.router.now()
                try:
                    lease = await pool.acquire(work)
                except ApiError as error:
                    if not self._move_to_next_pool(removed=isinstance(error, PoolRemovedError)):
                        raise
                    continue
                finally:
                    self.queued_s += self.router.now() - queued_at
            left = False
            try:
                return await self._try_replica(lease.replica, send)
            except asyncio.CancelledError:
                reply = self.response  # `left`: the client disconnected before it received output
                left = not self.begun if reply is None else reply.is_client_gone and not reply.started
                raise
            except (EngineError, TimeoutError) as error:
                if isinstance(error, EngineError) and not isinstance(error, EngineRefused):
                    await pool.handle_failure(lease.replica)
                if self._prepare_retry(error):
                    work = replace(work, but=lease.replica)
                    continue
                if isinstance(error, TimeoutError):
                    raise gateway_timeout("the model did not begin to answer in time; retry later") from error
                raise
            finally:
                pool.release(lease, left=left)

    async def _try_replica(self, replica: Replica, send: Callable[[Replica], Awaitable[T]]) -> T:
        """Run one attempt and record its outcome in the replica's circuit breaker."""
        pool, self.tries = self.pool, self.tries + 1
        outcome: AttemptOutcome = "neutral"
        self._replica, self._sent_at = replica, self.router.now()
        replica.record_sent(self._sent_at)
        try:
            limit_s = pool.spec.first_token_s
            if limit_s is None and not self._remaining_pools:
                result = await send(replica)  # only the deadline of the exchange applies
            else:
                left_s = self.until - self.router.now()
                async with asyncio.timeout(left_s if limit_s is None else min(limit_s, left_s)) as self._timer:
                    result = await send(replica)
            outcome = "ok"
            return result
        except TimeoutError:
            outcome = "timeout"
            raise
        except asyncio.CancelledError:
            waited = not self.begun and self.router.now() - self._sent_at > pool.silence_limit_s
            outcome = "timeout" if waited or self._late() else "neutral"
            raise
        except EngineRefused as error:
            outcome = "failed" if _is_engine_fault(error) else "neutral"
            replica.key_refused |= error.status == HTTPStatus.UNAUTHORIZED
            if problem := describe_upstream_problem(error):
                replica.problem, replica.is_confirmed = problem, False
            raise
        except EngineError:
            outcome = "failed"
            raise
        finally:
            self._timer = None
            if outcome == "ok":
                self.mark_started()
                replica.problem, replica.is_confirmed = "", True
            replica.record_end(outcome, self.router.now(), self._sent_at)

    def _prepare_retry(self, error: Exception) -> bool:
        """Select the pool for a retry. Return False if no retry is allowed."""
        if self.response is not None and self.response.is_client_gone:
            return False
        if self.begun or (isinstance(error, EngineRefused) and not _is_engine_fault(error)):
            return False
        disconnected = isinstance(error, EngineError) and error.code in BROKEN_CONNECTION_CODES
        same_pool = self._may_retry_pool and self.pool.healthy and (disconnected or len(self.pool.replicas) > 1)
        if self.router.now() < self.until and same_pool and self.router.budget.try_spend():
            self._may_retry_pool = False
            self.pool.events["retries"] += 1
            return True
        return self._move_to_next_pool()

    def _move_to_next_pool(self, *, removed: bool = False) -> bool:
        if removed:
            self._remaining_pools = list(self.reselect())
        if not self._remaining_pools or self.router.now() >= self.until:
            return False
        self.pool.events["fallbacks"] += 1
        self.pool, self._may_retry_pool = self._remaining_pools.pop(0), True
        return True


async def start_attempts(
    router: Router, request: HttpRequest, response: HttpResponse, generation: RoutableRequest, content: Any
) -> Attempts:
    """Classify a request by its `content` and select its pools. Raises like `classify_request`, `select_pools`."""
    header = request.header(DATA_CLASS_HEADER_BYTES)
    if len(request.body) > LARGE_TEXT_BYTES:
        data_class = await router.classify_large_request(generation.endpoint, header, content, request.principal.tenant)
    else:
        data_class = router.classify_request(generation.endpoint, header, content)
    until = request.received_at + response.limits.first_token_s
    pools = router.select_pools(generation, data_class, request.id)
    attempts = Attempts(router, pools, until, response.is_engine_timeout)
    attempts.reselect = partial(router.select_pools_now, generation, data_class, request.id)
    attempts.background = request.admitted.background
    attempts.data_class, attempts.response, attempts.tenant = data_class, response, request.principal.tenant
    return attempts


def _is_engine_fault(error: EngineRefused) -> bool:
    """True if another engine may reply; also for redirections, which mean that the address is wrong."""
    status = error.status
    if error.unable:
        return False
    if not HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR or status in ENGINE_FAULT_STATUSES:
        return True
    return bool(describe_upstream_problem(error))
