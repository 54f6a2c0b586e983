"""Slots of an engine by tenant: the prompt that a slot keeps is used again only for the tenant that sent it.

An engine skips the beginning of a prompt that a slot still has, and reports how many tokens it skipped. Shared slots
would so tell one tenant what another asked. A tenant gets a free slot of its own with a similar prompt, else the slot
that was used least recently; a slot that changes its tenant keeps nothing.

Design: a slot belongs to its new tenant only when the engine has begun to read the prompt, since a request that ends
before leaves the former prompt in the slot. One request at a time has a slot, so no late request of another tenant
can fill it.
"""

import asyncio
from collections import deque
from typing import NamedTuple

# A slot is chosen for its prompt if at least this share of the new prompt is at its beginning, as llama.cpp does.
LEAST_SHARE = 0.1


class Slot:
    """One slot. `keeps`: the request that has it may use the prompt of the request before."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.keeps = False
        self._tenant: str | None = None  # of the prompt in the slot; None: nobody's
        self._user = ""  # tenant of the request that has the slot
        self._prompt = b""
        self._used_at = 0
        self._busy = False

    @property
    def is_free(self) -> bool:
        return not self._busy

    @property
    def used_at(self) -> int:
        return self._used_at

    def measure_share(self, tenant: str, prompt: bytes) -> float:
        """Return the share of `prompt` that the slot may have; 0 for another tenant."""
        if self._tenant != tenant or not prompt:
            return 0.0
        return count_common_bytes(self._prompt, prompt) / len(prompt)

    def occupy(self, tenant: str, prompt: bytes, at: int) -> None:
        self.keeps = self._tenant == tenant
        if not self.keeps:
            self._tenant = None
        self._user = tenant
        self._prompt = prompt
        self._used_at = at
        self._busy = True

    def confirm(self) -> None:
        """Record that the engine has begun to read the prompt: nothing of another tenant is left."""
        self._tenant = self._user

    def free(self) -> None:
        self._busy = False


class _Waiter(NamedTuple):
    slot: asyncio.Future[Slot]
    tenant: str
    prompt: bytes


class TenantSlots:
    """The slots of one engine. Requests above their number wait in order."""

    def __init__(self, count: int) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._waiters: deque[_Waiter] = deque()
        self._uses = 0

    @property
    def waiting(self) -> int:
        return sum(not waiter.slot.done() for waiter in self._waiters)

    async def acquire(self, tenant: str, prompt: bytes) -> Slot:
        """Wait for a slot and take it, until `release`. `prompt`: what its similarity is measured by."""
        if any(slot.is_free for slot in self._slots):
            return self._take(tenant, prompt)
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tenant, prompt)
        self._waiters.append(waiter)
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            if waiter.slot.done() and not waiter.slot.cancelled():
                self.release(waiter.slot.result())
            raise

    def release(self, slot: Slot) -> None:
        slot.free()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.slot.done():
                waiter.slot.set_result(self._take(waiter.tenant, waiter.prompt))
                return

    def _take(self, tenant: str, prompt: bytes) -> Slot:
        free = [slot for slot in self._slots if slot.is_free]
        slot = max(free, key=lambda slot: slot.measure_share(tenant, prompt))
        if slot.measure_share(tenant, prompt) < LEAST_SHARE:
            slot = min(free, key=lambda slot: slot.used_at)
        self._uses += 1
        slot.occupy(tenant, prompt, self._uses)
        return slot


def count_common_bytes(one: bytes, other: bytes) -> int:
    """Return the length of the longest common beginning, by binary search."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
