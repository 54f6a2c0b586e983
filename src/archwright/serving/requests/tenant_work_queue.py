"""Places for work that costs this process much time, such as reading a document. Tenants take them by turns.

The next place goes to the tenant that holds the fewest, as slots of engines do (policy.fair_queue), and first-in
first-out within a tenant. So a tenant waits for at most one piece of work of each other tenant before its own.
Design: a piece has its own time limit, since the wait of others is as long as the longest piece.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from archwright.policy.fair_queue import FairQueue


class _Waiter(NamedTuple):
    """Work that waits for a place. `place` ends when it has the place, or cancelled."""

    place: asyncio.Future[None]
    tenant: str
    since: float

    @property
    def gone(self) -> bool:
        return self.place.done()


class TenantWorkQueue:
    """One per process and kind of work; so many pieces of work as `places` run at once."""

    def __init__(self, places: int, now: Callable[[], float] = time.monotonic) -> None:
        self._free = places
        self._now = now
        self._queue: FairQueue[_Waiter] = FairQueue()
        self._active: dict[str, int] = {}

    @asynccontextmanager
    async def hold_place(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the work within."""
        await self._take(tenant)
        try:
            yield
        finally:
            self._release(tenant)

    @property
    def waiting(self) -> int:
        return self._queue.count

    @property
    def is_busy(self) -> bool:
        return bool(self._active)

    async def _take(self, tenant: str) -> None:
        if self._free and not self._queue.count:
            self._occupy(tenant)
            return
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tenant, self._now())
        self._queue.add(tenant, waiter)
        try:
            await waiter.place
        except asyncio.CancelledError:
            if waiter.place.done() and not waiter.place.cancelled():  # assigned while the client disconnected
                self._release(tenant)
            raise
        finally:
            self._queue.record_departure(tenant)

    def _occupy(self, tenant: str) -> None:
        self._free -= 1
        self._active[tenant] = self._active.get(tenant, 0) + 1

    def _release(self, tenant: str) -> None:
        self._free += 1
        # Until here the tenant counts as a holder, so that others who hold as many come first.
        while self._free and (waiter := self._queue.peek_next(self._now(), self._active)) is not None:
            self._queue.pop()
            self._occupy(waiter.tenant)
            waiter.place.set_result(None)
        active = self._active.pop(tenant) - 1
        if active:
            self._active[tenant] = active
