"""Large request bodies held in memory, by tenant: one tenant's must not fill the memory of all."""

from __future__ import annotations

from collections import Counter


class BodyQuota:
    """One connection's part of `held`, the bytes by tenant."""

    __slots__ = ("_held", "_size", "_tenant")

    def __init__(self, held: Counter[str]) -> None:
        self._held = held
        self._size, self._tenant = 0, ""

    def set_size(self, tenant: str, size: int) -> int:
        """Set the tenant and size of this connection's body; returns all bytes of that tenant."""
        held = self._held
        held[tenant] += size - self._size
        self._size, self._tenant = size, tenant
        return held[tenant]

    def release(self) -> None:
        if self._size:
            self._held[self._tenant] -= self._size
            if not self._held[self._tenant]:
                del self._held[self._tenant]
            self._size = 0
