"""Shares of a pool's slots: a tenant leaves free what other tenants of the last minutes will need.

Rule: a tenant without a slot takes any free slot. A tenant with slots must leave slots free for the others: for each as
many as it used at once, at most an equal share (slots / tenants of the last minutes), less what it holds now. At most
half of the slots are kept free, and none in a pool with one slot.
Design: a running request is never stopped, so only a slot that is still free bounds the wait of another tenant. A
tenant that is alone uses all slots. Tenants that send little cost the others little, because one slot is kept for each.
"""

import math
from collections.abc import Mapping

MEMORY_S = 900.0  # a tenant counts for so long after its last request, and at most twice as long


class SlotShares:
    """The demand of each tenant of one pool in the last minutes: most requests that ran or waited at once."""

    def __init__(self) -> None:
        self._peaks: dict[str, int] = {}
        self._former_peaks: dict[str, int] = {}
        self._forget_at = -math.inf
        self._unshared: dict[str, int] = {}

    def record_demand(self, tenant: str, demand: int, now: float) -> None:
        """Record that the tenant ran or waited for so many requests at once."""
        if now >= self._forget_at:
            self._forget_at, self._former_peaks, self._peaks = now + MEMORY_S, self._peaks, {}
        if demand > self._peaks.get(tenant, 0):
            self._peaks[tenant] = demand
        if demand > self._unshared.get(tenant, 0):
            self._unshared[tenant] = demand

    @property
    def tenants(self) -> int:
        """Tenants of the last minutes."""
        return len(self._peaks.keys() | self._former_peaks.keys())

    def take_demands(self) -> dict[str, int]:
        """Return the demands recorded since the last call, for other processes."""
        demands, self._unshared = self._unshared, {}
        return demands

    def add_demands(self, demands: Mapping[str, int], now: float) -> None:
        """Add demands that another process recorded."""
        own, self._unshared = self._unshared, {}
        for tenant, demand in demands.items():
            self.record_demand(tenant, demand, now)
        self._unshared = own

    def may_take(self, tenant: str, active: Mapping[str, int], slots: int) -> bool:
        """True if the tenant may take one of the free slots. `active`: slots in use by tenant."""
        if tenant not in active:
            return True
        free, spare = slots - sum(active.values()), slots // 2
        if free > spare:
            return True
        others = (self._peaks.keys() | self._former_peaks.keys()) - {tenant}
        share = max(1, slots // (len(others) + 1))
        kept = 0
        for other in others:
            peak = max(self._peaks.get(other, 0), self._former_peaks.get(other, 0))
            kept += max(0, min(share, peak) - active.get(other, 0))
            if kept >= free:
                return False
        return True
